"""The sizes of every stage of a plan that trains: weights, memory, epochs."""

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from rich.console import Group

from pipeline.comparison import ABSENT, format_count
from pipeline.config.schema import RunConfig
from pipeline.console import PlainTable, plain
from pipeline.plan import Plan
from pipeline.sizing.memory import STAGES, bytes_per_gpu
from pipeline.store import Store
from stages.contract.documents import Manifest
from stages.contract.sizing import Unknown
from stages.contract.stage import StageConfig

READERS_OF_CAPTIONS = ("train_prior", "train_clip")


@dataclass(frozen=True)
class StageSize:
    """What training a stage will take; a value that is not known is none, and ``why`` says the reason."""

    stage: str
    parameters: int | None
    """Weights that are trained."""
    frozen_parameters: int | None
    """Weights beside them in the same network that are not, such as those that LoRA leaves alone."""
    num_gpus: int
    zero_stage: int
    """The configured one."""
    gigabytes_per_gpu: dict[str, float]
    """By ZeRO stage, "0" to "3"; see :mod:`pipeline.sizing.memory`."""
    images: int | None
    """Images of an epoch."""
    epochs: float | None
    steps_per_epoch: float | None
    why: list[str] = field(default_factory=list)


def stage_sizes(config: RunConfig, plan: Plan, store: Store, num_gpus: int | None = None) -> list[StageSize]:
    """Return the sizes of all stages that train here.

    ``num_gpus`` is what ZeRO splits over; none: the section's own number of workers, else the GPUs of this machine (1
    where it has none).
    """
    sections = {name: section for name, section in config.stages().items() if section.work == "training"}
    images, why = _images(config, plan, store)
    return [
        _size(name, section, config, images=images, why=why, num_gpus=num_gpus) for name, section in sections.items()
    ]


def _size(
    name: str, section: Any, config: RunConfig, *, images: int | None, why: str, num_gpus: int | None
) -> StageSize:
    from pipeline.sizing.modules import trained_module

    gpus, training = num_gpus or section.resources.num_workers or _gpus_here(), section.training
    reasons: list[str] = []
    trained = frozen = None
    try:
        weights = list(trained_module(name, config).parameters())
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        frozen = sum(weight.numel() for weight in weights) - trained
    except Unknown as error:
        reasons.append(f"parameters: {error}")
    memory = {}
    if trained is not None and frozen is not None:
        kept = partial(bytes_per_gpu, trained + frozen, trained, num_gpus=gpus)
        memory = {str(stage): kept(zero_stage=stage) / 1e9 for stage in STAGES}
    seen, unseen = _images_of(name, section, images, why)
    if unseen:
        reasons.append(f"epochs: {unseen}")
    epochs = _ratio(training.num_steps * training.batch_size, seen)
    return StageSize(
        name, trained, frozen, gpus, training.zero_stage, memory, seen,
        epochs=epochs,
        steps_per_epoch=_ratio(seen, training.batch_size),
        why=reasons,
    )  # fmt: skip


def _ratio(number: int | None, per: int | None) -> float | None:
    """Return how many times one number is the other; None: one of them is not known, or there are none."""
    return None if number is None or not per else number / per


def _gpus_here() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def _images(config: RunConfig, plan: Plan, store: Store) -> tuple[int | None, str]:
    """Return how many images there are, from the finished artifact, or for scenes from the section; or why not."""
    planned = plan.stages.get("download_shards")
    if planned is not None and planned.state == "done":
        return int(Manifest.of(store.artifact(planned.name, planned.fingerprint)).summary.counts["images"]), ""
    source = getattr(config.download_shards, "source", None)
    if source is not None and source.kind == "scenes":
        return int(source.num_images), ""
    return None, "the number of images is known when download_shards is done"


def _images_of(name: str, section: StageConfig, images: int | None, why: str) -> tuple[int | None, str]:
    """Return how many images an epoch of this stage has: those that the split leaves to train on, in expectation."""
    if name in READERS_OF_CAPTIONS:
        return None, "the number of captions is known when they are read"
    if images is None:
        return None, why
    split = getattr(section, "split", None)
    left = images if split is None else round(images * (1 - split.validation - split.test))
    if left == 0:
        return 0, f"none of {images:,} images is left to train on: lower split.validation or split.test, or take more"
    return left, ""


def sizes_document(sizes: list[StageSize]) -> list[dict[str, Any]]:
    """Return the sizes as JSON-ready data."""
    return [asdict(size) for size in sizes]


def sizes_table(sizes: list[StageSize]) -> Group:
    """Return the sizes for the terminal, and below them what is not known; the configured ZeRO stage is marked."""
    title = "sizes (GB per GPU of weights, gradients, optimiser and average; activations left out; * as configured)"
    table = PlainTable(title=title)
    table.heading("stage")
    for heading in ("trained", "frozen", "GPUs", *(f"ZeRO {stage}" for stage in STAGES), "images", "epochs"):
        table.heading(heading, justify="right")
    for size in sizes:
        table.row(*_row(size))
    return Group(table, *(plain(f"{size.stage}: {reason}") for size in sizes for reason in size.why))


def _row(size: StageSize) -> list[str]:
    cells = [size.stage]
    cells += [ABSENT if count is None else format_count(count) for count in (size.parameters, size.frozen_parameters)]
    cells.append(str(size.num_gpus))
    for stage in STAGES:
        gigabytes = size.gigabytes_per_gpu.get(str(stage))
        mark = "*" if stage == size.zero_stage else ""
        cells.append(ABSENT if gigabytes is None else f"{gigabytes:.3g}{mark}")
    cells.append(ABSENT if size.images is None else f"{size.images:,}")
    cells.append(ABSENT if size.epochs is None else f"{size.epochs:.3g}")
    return cells
