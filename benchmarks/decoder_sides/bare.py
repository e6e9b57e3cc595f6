"""The limit of ``benchmarks.decoder``: a plain loop around the same diffusers U-Net, with its batch in memory.

No pipeline: no shards, no conditioning dropout, no averaged weights, no clipping, no logging; one and the same batch.
"""

import torch
from torch.nn import functional as F

from benchmarks.decoder_sides.case import Case
from benchmarks.sides.serving import Stopwatch, Timing, serve
from models.decoders.pixel_diffusion.spec import PixelDiffusionSpec
from stages.formats.clips import read_clips
from stages.training.engine import autocast_dtype


def main() -> None:
    """Build the network and serve."""
    case = Case.from_command_line()
    config, device = case.decoder(), torch.device(case.device)
    embed_dim = read_clips(case.inputs["embed_clip"]).embed_dim
    spec = config.spec(embed_dim)
    assert isinstance(spec, PixelDiffusionSpec)
    unet = spec.build().unet.to(device).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, fused=True)
    batch, cells = config.training.batch_size, spec.resolution // spec.network.unshuffle
    grid = torch.randn(batch, unet.config.in_channels, cells, cells, device=device)
    grid = grid.contiguous(memory_format=torch.channels_last)
    target = torch.randn(batch, unet.config.out_channels, cells, cells, device=device)
    tokens = torch.randn(batch, spec.network.num_tokens, spec.network.token_dim, device=device)
    embeddings, times = torch.randn(batch, embed_dim, device=device), torch.rand(batch, device=device)
    precision = autocast_dtype(config.training, device)

    def step() -> None:
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            prediction = unet(grid, times, tokens, class_labels=embeddings, return_dict=False)[0]
        F.mse_loss(prediction.float(), target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    def train() -> Timing:
        for _ in range(case.warmup):
            step()
        stopwatch = Stopwatch(case.device)
        for _ in range(case.steps):
            step()
        return stopwatch.read()

    serve({"train": train})


if __name__ == "__main__":
    main()
