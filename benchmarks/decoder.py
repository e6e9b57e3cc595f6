"""Training of decoders beside its limit, and what encoded images save: ``python -m benchmarks.decoder``.

1. The stage's own training loop, fed from tar shards with embeddings joined by key (conditioning, averaged weights,
   gradient clipping and logging included), beside a plain loop around the same diffusers U-Net whose batch lies in
   memory: nothing but forward, backward and the optimiser's step. Start-up, validation and saving are left out; the
   first steps are not counted. Once with the quickstart's network, which is small (8 x 8 cells), so that what does not
   belong to it weighs most; once in the form of the paper's base (64 x 64 cells).
2. A step of latent diffusion with latents at hand, beside one that encodes its batch first.

Sides are processes of their own that work in turn, so that a busy machine slows all; rows give medians over the pairs.
On a GPU name configs of its size: ``--device cuda --configs configs/paper/…``; the images are small scenes, brought
to the decoder's resolution.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.decoder_sides.case import Case
from benchmarks.sides.asking import ROOT, Side
from benchmarks.sides.serving import Timing
from cluster.mapping import map_in_process
from cluster.training import launch_in_process
from pipeline.config.loading import load_config
from stages.contract.runner import run_stage
from stages.contract.stage import Allocation, StageContext
from stages.download_shards import stage as download_shards
from stages.embed_clip import stage as embed_clip
from stages.storage.artifact import Output

SIDES = "benchmarks.decoder_sides"
CONFIGS = ("configs/quickstart.yaml", "benchmarks/decoder_sides/paper_base.yaml")
PIPELINE_TARGET, WAIT_TARGET = 0.95, 0.02


def write_data(folder: Path, num_images: int) -> None:
    """Download and embed scenes, as the quickstart does."""
    config = load_config(
        ROOT / "configs" / "quickstart.yaml",
        [f"download_shards.source.num_images={num_images}", "download_shards.rows_per_shard=500"],
    )
    assert config.download_shards is not None
    assert config.embed_clip is not None
    context = StageContext(lambda event: None, map_in_process, launch_in_process, Allocation())
    shards, embeddings = (Output(str(folder / name), name, "bench") for name in ("download_shards", "embed_clip"))
    run_stage(download_shards.run, config.download_shards, inputs={}, output=shards, context=context)
    run_stage(embed_clip.run, config.embed_clip, inputs={"download_shards": shards}, output=embeddings, context=context)


def beside_bare_loop(case: Case, pairs: int) -> Table:
    """Measure the pipeline's loop and the bare one."""
    with Side(f"{SIDES}.pipeline", case) as ours, Side(f"{SIDES}.bare", case) as bare:
        timings = [(ours.work("train"), bare.work("train")) for _ in range(pairs)]
    images = case.steps * case.decoder().training.batch_size
    waits = [first.data_wait_fraction for first, _ in timings]
    table = ratio_table(
        f"pixel_diffusion of {case.config}", ("pipeline", "bare loop"), timings, images, PIPELINE_TARGET
    )
    table.caption = (
        f"waited for data: {statistics.median(waits):.2%} of the time ({min(waits):.2%} to {max(waits):.2%}), target "
        f"below {WAIT_TARGET:.0%}"
    )
    return table


def beside_online_encoding(case: Case, pairs: int) -> Table:
    """Measure steps on latents at hand and steps that encode."""
    with Side(f"{SIDES}.latents", case) as side:
        timings = [(side.work("precomputed"), side.work("online")) for _ in range(pairs)]
    images = case.steps * case.latent_decoder().training.batch_size
    return ratio_table("training of latent_diffusion", ("latents at hand", "encoded online"), timings, images, None)


def ratio_table(
    title: str, sides: tuple[str, str], timings: list[tuple[Timing, Timing]], images: int, target: float | None
) -> Table:
    """Return images a second of both sides, and their ratio by the clock and by CPU time."""
    table = Table(title=f"{title}, {len(timings)} pairs", title_justify="left", caption_justify="left")
    for heading in ("images a second", *sides, "ratio (range)", "by CPU time", "target"):
        table.add_column(heading, justify="left" if heading == "images a second" else "right")
    rates = (images / statistics.median(timing.seconds for timing in side) for side in zip(*timings, strict=True))
    ratios = [second.seconds / first.seconds for first, second in timings]
    used = statistics.median(second.cpu_seconds / first.cpu_seconds for first, second in timings)
    spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    wanted = "" if target is None else f"at least {target:g}"
    table.add_row("", *(f"{rate:.4g}" for rate in rates), spread, f"{used:.3f}", wanted)
    return table


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=CONFIGS, help="whose train_decoder is measured")
    parser.add_argument("--latents-config", default="configs/decoders/latent_diffusion.yaml")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="counted steps of one measurement")
    parser.add_argument("--warmup", type=int, default=8, help="steps before them")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


def main() -> None:
    """Make the data, then measure."""
    options, console = parse_options(), Console()
    if options.steps % options.warmup:
        raise SystemExit(f"benchmarks.decoder: --steps must be a multiple of --warmup, found {options.steps}")
    with tempfile.TemporaryDirectory(prefix="corgi-bench-") as folder:
        write_data(Path(folder), options.images)
        cases = [make_case(folder, config, options) for config in options.configs]
        for case in cases:
            console.print(beside_bare_loop(case, options.pairs))
        console.print(beside_online_encoding(cases[0], options.pairs))


def make_case(folder: str, config: str, options: argparse.Namespace) -> Case:
    """Return what both sides are given for a configuration."""
    return Case(
        folder=folder,
        config=config,
        latents_config=options.latents_config,
        steps=options.steps,
        warmup=options.warmup,
        threads=options.threads,
        device=options.device,
    )


if __name__ == "__main__":
    main()
