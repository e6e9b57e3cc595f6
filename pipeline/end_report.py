"""What ``corgi run`` says at the end: what was used, what the models are worth, where everything lies, what is next."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.captions import caption_fraction, format_fraction, pseudo_weight
from pipeline.record import RunRecord
from pipeline.splits import may_have_seen
from pipeline.summary import FAILED, SKIPPED

FEWEST_PAIRS = 200
"""Held-out pairs below which the figures of a prior say little."""
_UNRELATED = "control/unrelated"


def end_lines(record: RunRecord) -> list[str]:
    """Return the lines, each of a subject; of a run that is done."""
    lines = [
        ("used", _used(record)),
        *(("went on", text) for text in _continued(record)),
        ("prior", _prior(record)),
        ("images", _images(record)),
        *(("take care", warning) for warning in _warnings(record)),
        *_locations(record),
        *_next_commands(record),
    ]
    return [f"{label}: {text}" for label, text in lines if text]


def grid_path(record: RunRecord) -> str:
    """Return where the grid of generated images lies."""
    return f"{record.artifacts['generate']}/grid.png"


def _used(record: RunRecord) -> str:
    """Say how many images, how many captions there were and how many each stage read, and what was lost and why."""
    download, counts = record.stage("download_shards"), _counts(record, "download_shards")
    if download is None:
        return ""
    parts = [f"{counts.get('images', 0):,} images, {counts.get('captioned', 0):,} of them captioned"]
    made = _counts(record, "caption_images")
    if "pseudo_captions" in made:
        empty = f", {made['empty_pseudo_captions']:,} empty ones left out" if "empty_pseudo_captions" in made else ""
        parts.append(f"{made['pseudo_captions']:,} pseudo-captions of {made['pseudo_captioned']:,} images{empty}")
    for name, entry in record.plan.items():
        if (fraction := caption_fraction(entry.identity)) is not None:
            read = _counts(record, name).get("captioned")
            of = "" if read is None else f" ({read:,} captioned images)"
            parts.append(f"{name} read {format_fraction(fraction)} of the captions{of}{_pseudo(record, name)}")
    for prefix, verb in ((FAILED, "lost"), (SKIPPED, "skipped")):
        causes = {name.removeprefix(prefix): count for name, count in counts.items() if name.startswith(prefix)}
        if causes:
            parts.append(f"{verb}: {', '.join(f'{count:,} {cause}' for cause, count in causes.items())}")
    return "; ".join(parts)


def _pseudo(record: RunRecord, stage: str) -> str:
    """Say how many images have pseudo-captions that a stage read, and by which weight these stand beside human ones."""
    count, weight = _counts(record, stage).get("pseudo_captioned"), pseudo_weight(record.plan[stage].identity)
    if not count or not weight:
        return ""
    return f" and pseudo-captions of {count:,} images (weight {weight:.3g} beside human ones)"


def _continued(record: RunRecord) -> Iterator[str]:
    """Yield which trainings did not begin by themselves."""
    for entry in record.stages:
        if (source := entry.notes.get("continued_from")) is not None:
            yield f"{entry.name} from {source}, as training.num_steps alone was changed"
        if (source := entry.notes.get("init_from")) is not None:
            yield f"{entry.name} from the weights of {source}"


def _validated_pairs(record: RunRecord) -> int | None:
    """Return how many pairs the prior's figures are of, which may be fewer than are held out; None: not known."""
    for name in ("retrieval_at_1", "cosine_true"):
        if (measure := record.measures.get(f"train_prior/{name}")) is not None:
            return measure.n
    pairs, planned = _counts(record, "train_prior").get("held_out_pairs"), record.plan.get("train_prior")
    if pairs is None or planned is None:
        return pairs
    validation = planned.identity.get("validation")  # records of earlier versions have no measures
    most = validation.get("max_pairs") if isinstance(validation, Mapping) else None
    return min(pairs, most) if isinstance(most, int) else pairs


def _prior(record: RunRecord) -> str:
    figures, pairs = record.figures("train_prior/"), _validated_pairs(record)
    if "cosine_true" not in figures or pairs is None:
        return ""
    found = f"cosine to the true embedding {figures['cosine_true']:.3f}"
    if "cosine_unrelated" in figures:
        found += f", to others' {figures['cosine_unrelated']:.3f}"
    if "retrieval_at_1" in figures:
        found += f"; finds its image among {pairs:,} first in {figures['retrieval_at_1']:.1%}"
    return f"{found} ({pairs:,} held-out pairs)"


def _images(record: RunRecord) -> str:
    """Say how good they are, each figure with what it is to be compared with."""
    figures, notes = record.figures("evaluate/"), _notes(record)
    parts = []
    if "accuracy/both" in figures:
        against = {
            "unrelated captions": figures.get(f"{_UNRELATED}/both"),
            "without the prior": figures.get("control/text_embedding/both"),
            "from true embeddings": figures.get("reconstruction/both"),
        }
        measure = _interval(record, "accuracy/both", ".1%")
        parts.append(f"as asked {figures['accuracy/both']:.1%}{_beside(against, '.1%', measure)}")
    if "cosine/image_true" in figures:
        unrelated = {"unrelated": figures.get("cosine/image_unrelated")}
        measure = _interval(record, "cosine/image_true", ".3f")
        parts.append(f"cosine to the true image {figures['cosine/image_true']:.3f}{_beside(unrelated, '.3f', measure)}")
    for name in ("independent", "conditioning"):
        if (score := figures.get(f"clip_score/{name}")) is not None:
            measure = _interval(record, f"clip_score/{name}", ".1f")
            parts.append(
                f"CLIP score {score:.1f}{_beside({}, '', measure)} by {notes.get(f'clip_score/{name}', 'CLIP')}"
            )
            break
    if "frechet_distance" in figures:
        halves = {"true halves": figures.get("frechet_distance/true_halves")}
        about = notes.get("frechet_distance", "")
        measure = _interval(record, "frechet_distance", ".1f")
        parts.append(f"Fréchet distance {figures['frechet_distance']:.1f}{_beside(halves, '.1f', measure)} by {about}")
    return "; ".join(parts)


def _interval(record: RunRecord, name: str, how: str) -> str:
    """Return the interval of a figure of evaluate, of how many images or pairs it is; "": not known."""
    measure = record.measures.get(f"evaluate/{name}")
    interval = "" if measure is None else measure.interval(lambda value: f"{value:{how}}")
    return "" if measure is None or not interval else f"95% {interval}, n {measure.n:,}"


def _beside(others: Mapping[str, float | None], how: str, measure: str = "") -> str:
    known = [f"{name} {value:{how}}" for name, value in others.items() if value is not None]
    words = "; ".join(part for part in (measure, ", ".join(known)) if part)
    return f" ({words})" if words else ""


def _warnings(record: RunRecord) -> Iterator[str]:
    """Yield where figures mislead."""
    pairs = _validated_pairs(record)
    if pairs is not None and pairs < FEWEST_PAIRS:
        yield f"{pairs} held-out pairs say little of a prior: from {FEWEST_PAIRS} on its figures can be compared"
    for entry in record.stages:
        if (found := entry.notes.get("validated_on")) is not None:
            yield f"{entry.name} is validated on {found}"
    clip, prior = record.plan.get("train_clip"), record.plan.get("train_prior")
    if clip and prior and pairs is not None and may_have_seen(clip.identity, prior.identity):
        yield "train_clip may have learned from the prior's held-out pairs, whose figures are then too good"
    for entry in record.stages:
        if (found := entry.notes.get("overfitting")) is not None:
            yield f"{entry.name} overfits: {found}"
    figures = record.figures("evaluate/")
    with_prior, without = figures.get("accuracy/both"), figures.get("control/text_embedding/both")
    if with_prior is not None and without is not None and with_prior <= without:
        yield (
            "images are as good from the text's own embedding as from the prior's: the prior adds nothing, or the "
            "decoder shows nothing of its embeddings"
        )


def _locations(record: RunRecord) -> list[tuple[str, str]]:
    grid = grid_path(record) if "generate" in record.artifacts else ""
    model = record.mlflow.model_uri if record.mlflow is not None else None
    return [("images lie in", grid), ("model with MLflow", model or "")]


def _next_commands(record: RunRecord) -> list[tuple[str, str]]:
    corgi, store = _command(), str(record.config.get("store", "workspace"))
    where = "" if store == "workspace" else f" --store {store}"
    if not {"train_prior", "train_decoder"} <= set(record.artifacts) or record.config.get("generate") is None:
        return [("look at it", f"{corgi} inspect {record.run}{where}")]
    return [
        ("generate", f'{corgi} generate {record.run}{where} --prompt "…" --out images'),
        ("give it away", f"{corgi} export {record.run} my-model{where}"),
        ("dashboard", f"{corgi} dashboard{where}"),
    ]


def _command() -> str:
    """Return how to call corgi from here: by its name where the shell finds it, else by its path."""
    found = shutil.which("corgi")
    installed = Path(sys.executable).with_name("corgi")
    return "corgi" if found and Path(found).resolve() == installed.resolve() else os.path.relpath(installed)


def _counts(record: RunRecord, stage: str) -> Mapping[str, int]:
    entry = record.stage(stage)
    return {} if entry is None else entry.counts


def _notes(record: RunRecord) -> Mapping[str, str]:
    entry = record.stage("evaluate")
    return {} if entry is None else entry.notes
