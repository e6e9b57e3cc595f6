"""``corgi generate``: draw images with the models of a finished run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import RunConfig
from pipeline.errors import UsageError
from pipeline.store import Store
from stages.encoders.config import with_trained
from stages.generate.config import FilePrompts, GenerateConfig
from stages.generate.prompts import read_prompts

if TYPE_CHECKING:
    import numpy as np

    from stages.text_to_image import TextToImage


def generate_images(
    store: Store, name: str, out: Path, *, texts: Sequence[str], file: Path | None, image: Path | None, seed: int
) -> list[dict[str, Any]]:
    """Draw one PNG for each prompt, or a variation of an image; return path, prompt and seed of each.

    Raises:
        UsageError: no such run, a run without a model, or nothing to draw.
    """
    if sum((bool(texts), file is not None, image is not None)) != 1:
        raise UsageError("generate: give exactly one of --prompt (may be repeated), --prompts FILE and --image FILE")
    prompts = list(texts) if texts else read_prompts(FilePrompts(kind="file", path=file)) if file else [str(image)]
    picture = _read_image(image) if image else None
    record = store.find_run(name)
    system = _load(store, record)
    seeds = [seed + number for number in range(len(prompts))]
    pictures = system.draw(prompts, seeds) if picture is None else system.vary([picture], seeds)
    return _write(pictures, out, prompts, seeds, system, record["run"])


def _load(store: Store, record: dict[str, Any]) -> "TextToImage":
    """Load the models of a run; whatever the run's own ``generate`` section says of solvers and encoders holds."""
    from stages.generate.stage import settings_of
    from stages.trained_models import load_text_to_image

    missing = [stage for stage in ("train_prior", "train_decoder") if stage not in record["artifacts"]]
    config = RunConfig.model_validate(record["config"]).generate
    if missing or config is None:
        raise UsageError(
            f"run {record['run']}: has no finished {' and '.join(missing) or 'generate section'}; "
            f"finish it with `corgi run {record['config_path']}`, or name another run (corgi status shows all)"
        )
    inputs = {stage: store.artifact(stage, record["plan"][stage]["fingerprint"]) for stage in config.inputs}
    return load_text_to_image(
        with_trained(config.clip, inputs),
        inputs["train_prior"],
        inputs["train_decoder"],
        settings_of(config),
        upsamplers=[inputs[name] for name in config.upsampler_stages],
        t5=config.t5,
        batch_size=config.batch_size,
        device=_device(config),
    )


def _device(config: GenerateConfig) -> str:
    import torch

    return "cuda" if torch.cuda.is_available() and config.resources.gpus_per_worker else "cpu"


def _read_image(path: Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UsageError(
            f"--image: {path} cannot be read as an image ({error}); give a JPEG, PNG or WebP file"
        ) from None


def _write(
    pictures: "np.ndarray[Any, Any]",
    out: Path,
    prompts: Sequence[str],
    seeds: Sequence[int],
    system: "TextToImage",
    run: str,
) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from stages.text_to_image import encode_png

    try:
        out.mkdir(parents=True, exist_ok=True)
        written = []
        for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            path = out / f"{number:05d}.png"
            about = {"prompt": prompt, "seed": str(seed), "run": run, "settings": asdict(system.settings)}
            path.write_bytes(encode_png(pictures[number], about))
            written.append({"path": str(path), "prompt": prompt, "seed": seed})
    except OSError as error:
        raise UsageError(f"--out: {out} cannot be written ({error}); give a folder that you may write") from None
    return written
