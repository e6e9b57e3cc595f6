"""Latent diffusion with latents at hand, and with every batch encoded on its way; all of it lies in memory."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.decoder_sides.case import Case
from benchmarks.sides.serving import serve, timed
from models.decoders.latent_diffusion.model import LatentDenoiser
from pipeline.config.loading import load_config
from stages.formats.clips import read_clips
from stages.training.engine import autocast_dtype


def main() -> None:
    """Build both networks and serve."""
    case = Case.from_command_line()
    section, device = case.latent_decoder(), torch.device(case.device)
    first_stage = load_config(case.latents_config).train_autoencoder
    assert first_stage is not None
    shape = first_stage.spec
    autoencoder = shape.build().to(device).eval().requires_grad_(False)
    embed_dim = read_clips(case.inputs["embed_clip"]).embed_dim
    denoiser = LatentDenoiser(section.spec(embed_dim, shape)).to(device).train()
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-4, fused=True)
    batch = section.training.batch_size
    images = torch.rand(batch, 3, shape.resolution, shape.resolution, device=device) * 2 - 1
    latents = autoencoder.encode(images)
    embeddings = torch.randn(batch, embed_dim, device=device)
    precision = autocast_dtype(section.training, device)

    def step(encode: Callable[[], Tensor]) -> None:
        random_inputs = {"noise": torch.randn_like(latents), "blur": torch.randn_like(embeddings)}
        chances = {name: torch.rand(batch, device=device) for name in ("time", "dropout")}
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            loss = denoiser.loss(encode(), embeddings, **random_inputs, **chances).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def encoded() -> Tensor:
        latents: Tensor = autoencoder.encode(images)
        return latents

    def steps(encode: Callable[[], Tensor]) -> Callable[[], None]:
        def work() -> None:
            for _ in range(case.steps):
                step(encode)

        return work

    works = {"precomputed": steps(lambda: latents), "online": steps(encoded)}
    serve({name: timed(case.device, work) for name, work in works.items()})


if __name__ == "__main__":
    main()
