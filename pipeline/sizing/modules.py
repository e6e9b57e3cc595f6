"""The networks that the train_ stages of an experiment will train, with shapes and no memory (device "meta").

Each stage says itself what it would train; widths that only data would say are read from the configuration, and where
it does not say them, the reason is given.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from models.autoencoders.spec import AutoencoderSpec
from pipeline.config.loading import load_reused
from pipeline.config.schema import RunConfig
from stages.contract.sizing import Unknown
from stages.contract.texts import one_line
from stages.encoders.check import architecture_file
from stages.encoders.config import ClipConfig, FolderClip, OneImageEncoder, PretrainedClip, TimmImages
from stages.encoders.language_model_files import read_width
from stages.encoders.vision_folders import read_image_width
from stages.formats.clip_folders import CLIP_CONFIG


def trained_module(name: str, config: RunConfig) -> nn.Module:
    """Return what a train_ stage optimises, on the device "meta"; what is frozen there asks for no gradient."""
    stage = importlib.import_module(f"stages.{name}.stage")
    try:
        with torch.device("meta"):
            module: nn.Module = stage.planned_module(getattr(config, name), ExperimentShapes(config))
    except (RuntimeError, TypeError) as error:  # a weight of more bytes, or a width of more bits, than torch counts
        reason = one_line(str(error).partition("\n")[0], 200)
        raise Unknown(f"torch makes no network of these sizes ({reason}); lower its widths") from None
    return module


@dataclass(frozen=True)
class ExperimentShapes:
    """Widths as the sections of an experiment say them, or of one whose artifacts it reuses."""

    config: RunConfig

    @property
    def embed_dim(self) -> int:
        """Width of an image embedding, all CLIP models together, or of the encoder in their place."""
        images = _clip_of(self.config).images
        return self._of_models if images is None else _image_width(images)

    @property
    def text_dim(self) -> int | None:
        """Width of a text embedding where images are embedded by another encoder."""
        return None if _clip_of(self.config).images is None else self._of_models

    @property
    def _of_models(self) -> int:
        return sum(_clip_widths(self.config, lambda model: int(model["embed_dim"])))

    @property
    def autoencoder(self) -> AutoencoderSpec:
        """The first stage."""
        section = _section_of(self.config, "train_autoencoder")
        if section is None:
            raise Unknown("no autoencoder is configured")
        spec: AutoencoderSpec = section.spec
        return spec

    @property
    def num_gaussians(self) -> int:
        """Size of the Gaussian bank."""
        section = _section_of(self.config, "fit_gaussians")
        if section is None:
            raise Unknown("no Gaussians are configured")
        return int(section.num_gaussians)

    @property
    def text_states(self) -> Mapping[str, Callable[[], tuple[int, int]]]:
        """Width and largest length of the text states that embed_clip makes, by encoder."""
        embed = _section_of(self.config, "embed_clip")
        made = None if embed is None else embed.text_states
        states: dict[str, Callable[[], tuple[int, int]]] = {}
        for name, model in ({} if made is None else made.text_models).items():
            states[name] = partial(_text_model_size, name, model)
        if made is not None and (clip := made.clip) is not None:
            states["clip"] = lambda: (
                sum(_clip_widths(self.config, lambda model: int(model["text_cfg"]["width"]))),
                clip.max_length,
            )
        return states


def _text_model_size(name: str, source: Any) -> tuple[int, int]:
    """Return the width and the largest length of a text model's states."""
    if source.path is None:
        raise Unknown(f"the width of {source.name} is not known here: give its folder (embed_clip.text_states.t5.path)")
    if name == "language_model":
        return read_width(source.path, f"embed_clip.text_states.{name}.path"), source.max_length
    content = json.loads((source.path / "config.json").read_text(encoding="utf-8"))
    return int(content["d_model"]), source.max_length


def _image_width(images: OneImageEncoder) -> int:
    """Return the width of the embeddings of an encoder of images."""
    width = read_image_width(images.path, "clip.images.path", is_timm=isinstance(images, TimmImages))
    if width is None:
        raise Unknown(f"the width of {images.reference} is not known here: its config.json names no num_features")
    return width


def _clip_of(config: RunConfig) -> ClipConfig:
    embed = _section_of(config, "embed_clip")
    clip: ClipConfig | None = config.clip or (None if embed is None else embed.clip)
    if clip is None:
        raise Unknown("no CLIP model is configured")
    return clip


def _clip_widths(config: RunConfig, width: Callable[[Mapping[str, Any]], int]) -> list[int]:
    return [width(_architecture(model, config)) for model in _clip_of(config).models]


def _architecture(model: Any, config: RunConfig) -> Mapping[str, Any]:
    """Return a CLIP model's architecture in open_clip's words."""
    if isinstance(model, FolderClip | PretrainedClip):
        file = model.path / CLIP_CONFIG if isinstance(model, FolderClip) else architecture_file(model.name)
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return dict(content.get("model_cfg", content))
    trained = _section_of(config, "train_clip")
    if trained is None:
        raise Unknown("the CLIP is one that is trained, and no train_clip is configured")
    return dict(trained.architecture.model_dump())


def _section_of(config: RunConfig, stage: str) -> Any:
    """Return a stage's section, here or in the experiment whose artifact is reused; None: there is none."""
    section = getattr(config, stage)
    if section is not None or stage not in config.reuse:
        return section
    return _section_of(load_reused(config.reuse[stage]), stage)
