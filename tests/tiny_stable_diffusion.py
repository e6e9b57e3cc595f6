"""A Stable Diffusion checkpoint of a few thousand random weights, in the format that diffusers saves."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TOKEN_DIM = 32


def save_tiny_stable_diffusion(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Save the checkpoint; its autoencoder makes one place of latents of 4 x 4 pixels."""
    torch.manual_seed(seed)
    scheduler: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    pipeline = StableDiffusionPipeline(
        vae=_make_vae(),
        unet=_make_unet(),
        text_encoder=_make_text_encoder(),
        tokenizer=_make_tokenizer(folder.with_name(folder.name + "_words")),
        scheduler=PNDMScheduler(skip_prk_steps=True, prediction_type=prediction_type, steps_offset=1, **scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_tiny_stable_diffusion_xl(folder: Path) -> Path:
    """Save a checkpoint as SDXL's are: two text encoders, and a U-Net that takes sizes and a pooled embedding."""
    torch.manual_seed(0)
    words = _make_tokenizer(folder.with_name(folder.name + "_words"))
    pipeline = StableDiffusionXLPipeline(
        vae=_make_vae(),
        unet=_make_unet(
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=TOKEN_DIM + 6 * 8,
            transformer_layers_per_block=[1, 2],
        ),
        text_encoder=_make_text_encoder(),
        text_encoder_2=CLIPTextModelWithProjection(_text_config()),
        tokenizer=words,
        tokenizer_2=words,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def generate_with_diffusers(
    folder: Path, conditional: torch.Tensor, unconditional: torch.Tensor, *, side: int, num_steps: int
) -> torch.Tensor:
    """Generate an image in [-1, 1] by diffusers' own pipeline, from the noise of seed 3 under guidance 2."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, side // 4, side // 4, generator=torch.Generator().manual_seed(3))
    generated = pipeline(
        prompt_embeds=conditional, negative_prompt_embeds=unconditional, latents=noise, num_inference_steps=num_steps,
        guidance_scale=2.0, height=side, width=side, output_type="pt",
    ).images  # fmt: skip
    images: torch.Tensor = generated * 2 - 1
    return images


def _make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )


def _make_unet(**options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TOKEN_DIM,
        attention_head_dim=2,
        norm_num_groups=8,
        **options,
    )


def _make_text_encoder() -> CLIPTextModel:
    return CLIPTextModel(_text_config())


def _text_config() -> CLIPTextConfig:
    sizes = {"hidden_size": TOKEN_DIM, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return CLIPTextConfig(
        vocab_size=8, bos_token_id=0, eos_token_id=1, pad_token_id=1, projection_dim=TOKEN_DIM, **sizes
    )


def _make_tokenizer(folder: Path) -> CLIPTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    words = ["<|startoftext|>", "<|endoftext|>", "a", "b", "a</w>", "b</w>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
