"""The networks that the train_ stages of an experiment will train, with shapes and no memory (device "meta").

Widths that only data would tell are taken from the configuration beside them; where it does not tell them, the reason
is said.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from models.autoencoders.losses import PatchDiscriminator
from models.autoencoders.model import make_autoencoder
from models.priors.spec import TextStateSpec
from pipeline.config.schema import RunConfig
from pipeline.sizing.checkpoints import published_parts
from stages.contract.errors import StageError
from stages.contract.stage import StageConfig
from stages.encoders.check import CONFIG_FILE, architecture_file
from stages.encoders.config import (
    ClipConfig,
    FolderClip,
    PretrainedClip,
    TextStatesConfig,
)


class Unknown(Exception):
    """A size that the configuration alone does not tell; the message says why."""


def trained_module(name: str, config: RunConfig) -> nn.Module:
    """Return what a train_ stage optimises, on the device "meta"; what is frozen there asks for no gradient.

    Raises:
        Unknown: its size depends on what the configuration does not tell.
    """
    section: Any = getattr(config, name)
    with torch.device("meta"):
        return _MAKERS[name](section, config)


def is_trained(section: StageConfig) -> bool:
    """Tell whether the stage trains a network."""
    return section.work == "training"


def _decoder(section: Any, config: RunConfig) -> nn.Module:
    return _DECODERS[section.kind](section, config)


def _pixel_diffusion(section: Any, config: RunConfig) -> nn.Module:
    from models.decoders.pixel_diffusion.model import PixelDecoder

    return PixelDecoder(section.decoder(embed_dim(config)))


def _latent_diffusion(section: Any, config: RunConfig) -> nn.Module:
    from models.decoders.latent_diffusion.model import LatentDenoiser

    first = _first_stage(config)
    return LatentDenoiser(section.decoder(embed_dim(config), first, scale_factor=1.0, shift=0.0))


def _vq_autoregressive(section: Any, config: RunConfig) -> nn.Module:
    from models.decoders.vq_autoregressive.model import CodeTransformer

    return CodeTransformer(section.decoder(embed_dim(config), _first_stage(config)))


def _first_stage(config: RunConfig) -> Any:
    if config.train_autoencoder is None:
        raise Unknown("its autoencoder is another experiment's (reuse.train_autoencoder)")
    return config.train_autoencoder.model()


def _stylegan2(section: Any, config: RunConfig) -> nn.Module:
    from models.decoders.stylegan2.discriminator import Discriminator
    from models.decoders.stylegan2.model import StyleGan2Generator

    width = embed_dim(config)
    return nn.ModuleList([StyleGan2Generator(section.decoder(width)), Discriminator(section.evaluate(width))])


def _stable_diffusion(section: Any, config: RunConfig) -> nn.Module:
    from models.decoders.stable_diffusion.model import StableDiffusionDenoiser
    from models.decoders.stable_diffusion.spec import StableDiffusionDecoderConfig
    from stages.train_decoder.stable_diffusion.checkpoint import read_configs
    from stages.train_decoder.stable_diffusion.task import low_rank

    try:
        with torch.device("cpu"):  # a scheduler computes with its numbers
            parts: Mapping[str, Any] = published_parts(section.name) if section.name else read_configs(section.source)
    except (KeyError, StageError) as error:
        raise Unknown(f"the shape of {section.source} is not known here: give its folder (path)") from error
    shape = StableDiffusionDecoderConfig(
        unet=parts["unet"], vae=parts["vae"], scheduler=parts["scheduler"], embed_dim=embed_dim(config),
        resolution=section.resolution, num_tokens=section.num_tokens,
    )  # fmt: skip
    denoiser = StableDiffusionDenoiser(shape)
    if section.tuning.kind == "lora":
        low_rank(denoiser.unet, section.tuning)
    return denoiser


def _upsampler(section: Any, config: RunConfig) -> nn.Module:
    from models.decoders.upsampler.model import Upsampler

    return Upsampler(section.upsampler(embed_dim(config)))


def _autoencoder(section: Any, config: RunConfig) -> nn.Module:
    parts: list[nn.Module] = [make_autoencoder(section.model())]
    if section.adversary is not None:
        parts.append(PatchDiscriminator(section.adversary.width, section.adversary.num_layers))
    return nn.ModuleList(parts)


def _prior(section: Any, config: RunConfig) -> nn.Module:
    if section.kind == "shifted" and config.fit_gaussians is None:
        raise Unknown("its Gaussians are another experiment's (reuse.fit_gaussians)")
    num_gaussians = config.fit_gaussians.num_gaussians if config.fit_gaussians and section.kind == "shifted" else 1
    spec = section.spec(
        embed_dim=embed_dim(config), num_gaussians=num_gaussians, text_states=_text_states(section, config)
    )
    module: nn.Module = spec.build()
    return module


def _text_states(section: Any, config: RunConfig) -> dict[str, TextStateSpec]:
    made = config.embed_clip.text_states if config.embed_clip is not None else None
    if made is None:
        return {}
    found = _made_states(made, config)
    wanted = found if section.text_states is None else section.text_states
    return {name: found[name]() for name in wanted if name in found}


def _made_states(made: TextStatesConfig, config: RunConfig) -> dict[str, Callable[[], TextStateSpec]]:
    states: dict[str, Callable[[], TextStateSpec]] = {}
    t5, clip = made.t5, made.clip
    if t5 is not None:
        states["t5"] = lambda: TextStateSpec(_t5_width(t5), t5.max_length)
    if clip is not None:
        states["clip"] = lambda: TextStateSpec(sum(_clip_widths(config, _tower_width)), clip.max_length)
    return states


def _t5_width(source: Any) -> int:
    if source.path is None:
        raise Unknown(f"the width of {source.name} is not known here: give its folder (embed_clip.text_states.t5.path)")
    return int(json.loads((source.path / "config.json").read_text(encoding="utf-8"))["d_model"])


def _clip(section: Any, config: RunConfig) -> nn.Module:
    from stages.encoders.open_clip_import import import_open_clip
    from stages.train_clip.task import model_config

    open_clip = import_open_clip(with_timm="timm_model_name" in section.architecture.vision_cfg)
    model: nn.Module = open_clip.CLIP(**model_config(section, section.vocab_size))
    return model


def embed_dim(config: RunConfig) -> int:
    """Return the width of an image embedding, all CLIP models together.

    Raises:
        Unknown: no CLIP is configured, or a trained one is another experiment's.
    """
    return sum(_clip_widths(config, lambda model: int(model["embed_dim"])))


def _clip_widths(config: RunConfig, width: Callable[[Mapping[str, Any]], int]) -> list[int]:
    clip: ClipConfig | None = config.clip or (config.embed_clip.clip if config.embed_clip is not None else None)
    if clip is None:
        raise Unknown("no CLIP model is configured")
    return [width(_architecture(model, config)) for model in clip.models]


def _tower_width(model: Mapping[str, Any]) -> int:
    return int(model["text_cfg"]["width"])


def _architecture(model: Any, config: RunConfig) -> Mapping[str, Any]:
    """Return a CLIP model's architecture in open_clip's words."""
    if isinstance(model, FolderClip | PretrainedClip):
        file = model.path / CONFIG_FILE if isinstance(model, FolderClip) else architecture_file(model.name)
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return dict(content.get("model_cfg", content))
    if config.train_clip is None:
        raise Unknown("its CLIP model is another experiment's (reuse.train_clip)")
    return config.train_clip.architecture.model_dump()


_DECODERS: Mapping[str, Callable[[Any, RunConfig], nn.Module]] = {
    "pixel_diffusion": _pixel_diffusion,
    "latent_diffusion": _latent_diffusion,
    "vq_autoregressive": _vq_autoregressive,
    "stylegan2": _stylegan2,
    "stable_diffusion": _stable_diffusion,
}
_MAKERS: Mapping[str, Callable[[Any, RunConfig], nn.Module]] = {
    "train_clip": _clip,
    "train_prior": _prior,
    "train_autoencoder": _autoencoder,
    "train_decoder": _decoder,
    "train_upsampler": _upsampler,
    "train_second_upsampler": _upsampler,
}
