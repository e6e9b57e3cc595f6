"""What the training loop needs to fine-tune a Stable Diffusion checkpoint."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from peft import LoraConfig
from torch import nn

from models.decoders.base import Decoder, to_bytes
from models.decoders.stable_diffusion.model import StableDiffusionDecoder, StableDiffusionDenoiser, decoded, scaled
from models.decoders.stable_diffusion.published import published_parts
from models.decoders.stable_diffusion.spec import StableDiffusionSpec
from models.decoders.training import DenoisingLoss, denoiser_of
from stages.contract.errors import InputFault
from stages.contract.sizing import Shapes, Unknown
from stages.encoders.identity import digest_tensors
from stages.storage.artifact import Output
from stages.train_decoder.first_stage import EncodedTask
from stages.train_decoder.stable_diffusion.checkpoint import load_unet, load_vae, read_configs, save_lora, save_pipeline
from stages.train_decoder.stable_diffusion.config import LoraTuning, StableDiffusionConfig
from stages.train_decoder.text_tuning import TextTunedTask
from stages.training.images.dataset import Indices
from stages.training.images.shard_images import ImageRows

PIPELINE = "decoder/pipeline"
LORA = "decoder/lora"


@dataclass
class StableDiffusionTask(TextTunedTask, EncodedTask):
    """Fine-tunes a Stable Diffusion checkpoint."""

    parts: ClassVar[Mapping[str, str]] = {
        "denoiser.unet.": "pipeline/unet/diffusion_pytorch_model.safetensors",
        "vae.": "pipeline/vae/diffusion_pytorch_model.safetensors",
    }

    config: StableDiffusionConfig

    @cached_property
    def spec(self) -> StableDiffusionSpec:
        """The decoder's spec."""
        try:
            return self.config.spec(self.data.embed_dim, read_configs(self.config.source))
        except ValueError as error:
            raise InputFault(
                f"train_decoder: {self.config.source}: {error}: name a checkpoint of SD 1.x, 2.x or XL, or another "
                "train_decoder.resolution"
            ) from error

    @classmethod
    def planned_module(cls, config: StableDiffusionConfig, shapes: Shapes) -> nn.Module:
        """Return what would be trained: of a checkpoint that is here, or of a published one."""
        try:
            with torch.device("cpu"):  # a scheduler computes with its numbers
                parts = published_parts(config.name) if config.name else read_configs(config.source)
        except (KeyError, InputFault) as error:
            raise Unknown(f"the shape of {config.source} is not known here: give its folder (path)") from error
        model: nn.Module = config.spec(shapes.embed_dim, parts).build_training()
        if isinstance(config.tuning, LoraTuning):
            low_rank(_denoiser(model).unet, config.tuning)
        return model

    @cached_property
    def vae(self) -> nn.Module:
        """Return the checkpoint's autoencoder, frozen."""
        vae: nn.Module = load_vae(self.config.source).to(self.rank_info.device)
        return vae

    def check_data(self) -> None:
        """Look whether the latents are those of this checkpoint's autoencoder, at the configured resolution."""
        found, spec = self.identity, self.spec
        if found.kind != "stable_diffusion" or found.shape != spec.latent_shape:
            raise InputFault(
                f"train_decoder: kind stable_diffusion found latents {list(found.shape)} of kind {found.kind}: "
                f"expected {list(spec.latent_shape)} of kind stable_diffusion: give encode_latents the kind "
                f"stable_diffusion, the same checkpoint and resolution {self.config.resolution}"
            )
        weights = {name: tensor.cpu() for name, tensor in self.vae.state_dict().items()}
        digest = digest_tensors(weights, hashlib.sha256())
        if found.encoder.digest != digest:
            raise InputFault(
                f"train_decoder: found latents by the autoencoder of {found.encoder}: "
                f"expected that of {self.config.source} ({digest[:8]}): give "
                "encode_latents the same checkpoint"
            )

    def build_model(self) -> nn.Module:
        """Take the checkpoint's weights, or those to go on from, with low-rank additions where they are asked for."""
        model = super().build_model()
        if isinstance(self.config.tuning, LoraTuning):
            low_rank(_denoiser(model).unet, self.config.tuning)
        return model

    def make_model(self) -> nn.Module:
        """Take the checkpoint's U-Net."""
        unet = load_unet(self.config.source)
        if self.config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        return DenoisingLoss(StableDiffusionDenoiser(self.spec, unet))

    def decoder_of(self, model: nn.Module) -> Decoder:
        """Return the denoiser together with the autoencoder."""
        return StableDiffusionDecoder(self.spec, denoiser=_denoiser(model), vae=self.vae)

    def true_images(self, indices: Indices) -> ImageRows:
        """Return what the autoencoder makes of the true latents."""
        latents = self.read(indices)["latents"].float().to(self.rank_info.device)
        return to_bytes(decoded(self.vae, scaled(latents, self.spec), self.spec).cpu()).numpy()

    def save(self, model: nn.Module, output: Output) -> None:
        """Write what diffusers loads, a whole pipeline and the additions, and the rest of the decoder."""
        if isinstance(self.config.tuning, LoraTuning):
            save_lora(_denoiser(model).unet, output, LORA)
            model = _merged(model)
        save_pipeline(self.config.source, _denoiser(model).unet, output, PIPELINE)
        super().save(model, output)


def _denoiser(model: nn.Module) -> StableDiffusionDenoiser:
    return cast(StableDiffusionDenoiser, denoiser_of(model))


def low_rank(unet: Any, tuning: LoraTuning) -> None:
    """Freeze a U-Net and put low-rank additions into it, which are what is trained."""
    alpha = tuning.rank if tuning.alpha is None else tuning.alpha
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(r=tuning.rank, lora_alpha=alpha, target_modules=list(tuning.layers), init_lora_weights="gaussian")
    )


def _merged(model: nn.Module) -> nn.Module:
    """Return a copy whose U-Net is plain again, with the low-rank additions in its weights."""
    merged = copy.deepcopy(model)
    unet: Any = _denoiser(merged).unet
    unet.fuse_lora()
    unet.unload_lora()
    return merged
