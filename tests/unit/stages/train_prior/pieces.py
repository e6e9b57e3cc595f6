"""Small embeddings as embed_clip writes them, Gaussians as fit_gaussians does, and sections of train_prior."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from cluster.mapping import map_in_process
from cluster.training import launch_in_process
from stages.contract.events import Event, Progress
from stages.contract.stage import Allocation, StageContext
from stages.fit_gaussians import stage as fit_gaussians
from stages.fit_gaussians.config import FitGaussiansConfig
from stages.formats.clips import ClipIdentity, Clips, write_clips
from stages.formats.embeddings.layout import EmbeddingsRecord, TextEncoderIdentity, record_text_encoders
from stages.formats.embeddings.writer import EncodedCaptions, ShardEmbeddings
from stages.storage.artifact import Artifact, Output
from stages.train_prior import stage as train_prior
from stages.train_prior.config import TrainPriorConfig

DIM, ROWS, SHARDS, STATE_WIDTH, MOST_STATES = 6, 60, 3, 3, 4


def context(events: list[Event] | None = None) -> StageContext:
    emit = (lambda event: None) if events is None else events.append
    return StageContext(emit, map_in_process, launch_in_process, Allocation())


def make_embeddings(
    folder: Path,
    *,
    captioned: bool = True,
    rows: int = ROWS,
    num_captions: int = 1,
    states: tuple[str, ...] = (),
    clip: str = "d",
    clip_dims: tuple[int, ...] = (DIM,),
    caption: str = "a thing",
    pseudo: bool = False,
) -> Output:
    """Write shards of which every second image has captions; text embeddings are the image's, turned around.

    With ``pseudo``, every image has a pseudo-caption beside these, whose embedding is the image's.
    """
    output = Output(str(folder / "emb"), "embed_clip", "e0")
    rng = np.random.default_rng(0)
    for shard in range(SHARDS):
        name = f"{shard:05d}"
        image = rng.normal(size=(rows, DIM)) * 2 + 1
        has = np.arange(rows) % 2 == 0 if captioned else np.zeros(rows, dtype=bool)
        text = image[:, ::-1] + 0.1
        text[~has] = np.nan
        extra = [(int(row), "another") for row in np.flatnonzero(has) for _ in range(num_captions - 1)]
        further = np.array([text[row] + 1 + n % 7 for n, (row, _) in enumerate(extra)]).reshape(-1, DIM)
        content = ShardEmbeddings(
            [f"{name}{row:05d}" for row in range(rows)],
            [caption if one else None for one in has],
            [image],
            EncodedCaptions(
                [text], {encoder: [_states(rng) if one else _states(rng, 0) for one in has] for encoder in states}
            ),
            extra,
            EncodedCaptions([further], {name: [_states(rng) for _ in extra] for name in states}),
            [(row, f"made of {row}") for row in range(rows) if pseudo],
            EncodedCaptions([image if pseudo else image[:0]]),
        )
        widths = dict.fromkeys(states, STATE_WIDTH)
        content.write(name, output, storage=np.dtype(np.float16), embed_dim=DIM, widths=widths)
        EmbeddingsRecord(rows=rows, captioned=int(has.sum()), failures={}).finish(output, name)
    clips = [ClipIdentity(reference="r", digest=clip, embed_dim=width, image_size=8) for width in clip_dims]
    write_clips(output, Clips(tuple(clips), "the test"))
    identity = TextEncoderIdentity(reference="s", digest="e", width=STATE_WIDTH, max_length=MOST_STATES, source={})
    record_text_encoders(output, dict.fromkeys(states, identity))
    return output


def _states(rng: np.random.Generator, count: int | None = None) -> np.ndarray:
    return rng.normal(size=(int(rng.integers(1, MOST_STATES + 1)) if count is None else count, STATE_WIDTH))


def fit(folder: Path, embeddings: Artifact, **changes: Any) -> Output:
    output = Output(str(folder), "fit_gaussians", "g0")
    config = FitGaussiansConfig(**({"num_gaussians": 4} | changes))
    fit_gaussians.run(config, {"embed_clip": embeddings}, output, context())
    return output


def prior_config(kind: str = "shifted", **changes: Any) -> Any:
    section: dict[str, Any] = {"kind": kind, "split": {"validation": 0.3}, "validation": {"samples_per_caption": 2}}
    if kind != "identity":
        section["network"] = {"width": 16, "num_layers": 1, "num_heads": 2}
        section["training"] = {"num_steps": 8, "batch_size": 16, "log_interval": 4, "precision": "float32"}
    if kind in ("shifted", "gaussian", "flow"):
        section["validation"] |= {"num_steps": [1, 4]}
    if kind == "autoregressive":
        section |= {"num_components": 4, "num_buckets": 16}
    return TypeAdapter(TrainPriorConfig).validate_python(section | changes)


class Killed(Exception):
    """Ends a training at a step, as a lost process does."""


def train_cut_at(step: int, config: Any, inputs: dict[str, Artifact], output: Output) -> None:
    """Train until the step, where the training is cut, and then to the end."""

    def die(event: Event) -> None:
        if isinstance(event, Progress) and event.done >= step:
            raise Killed

    with pytest.raises(Killed):
        train_prior.run(config, inputs, output, StageContext(die, map_in_process, launch_in_process))
    train_prior.run(config, inputs, output, context())


def inputs_for(kind: str, folder: Path, **changes: Any) -> dict[str, Artifact]:
    """Make what a prior of the kind is trained on."""
    inputs: dict[str, Artifact] = {"embed_clip": make_embeddings(folder, **changes)}
    if kind in ("shifted", "flow"):
        inputs["fit_gaussians"] = fit(folder / "g", inputs["embed_clip"])
    return inputs
