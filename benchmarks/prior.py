"""The prior's speed beside DiffusionPrior of the PyPI package dalle2-pytorch: ``python -m benchmarks.prior``.

Each side is a process of its own; they work in turn, so that a busy machine slows both. A row gives the medians over
the pairs, by the clock and by CPU time, which is steadier where others use the machine (on a GPU it says nothing).
Equal on both sides: width of tokens and embeddings, layers, heads, width of a head, feed-forward factor, tokens,
batch, precision, threads, optimiser (fused AdamW), text dropout, passes through the network in sampling.
The package is installed into a cache folder the first time, without its own dependencies on torch and the like;
``--peer`` names another folder with it. With ``--device cuda --sizes small --precision bfloat16`` the last line is
the model FLOP utilisation of a GPU.

``--kinds`` trains the fast kinds of priors (flow, projection, distilled) beside the diffusion prior instead, and
compares their time per caption, and what they retrieve, with 64-step diffusion: :mod:`benchmarks.prior_sides.kinds`.
"""

import argparse
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.prior_sides.case import LONGEST, SHORTEST, Case
from benchmarks.prior_sides.kinds import KindsCase, compare_kinds
from benchmarks.sides.asking import Side
from benchmarks.sides.serving import Timing
from models.priors.sizes import NetworkSize, transformer_of_size

SIDES = "benchmarks.prior_sides"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "corgi-pipeline"
PEER = "dalle2-pytorch==1.15.6"
# It wants an older open_clip and much that its prior never touches, so only what its import needs is installed.
PEER_NEEDS = (
    "accelerate==1.15.0",
    "clip-anytorch==2.6.0",
    "coca-pytorch==0.1.0",
    "einops==0.8.2",
    "einops-exts==0.0.4",
    "einx==0.4.3",
    "ema-pytorch==0.8.3",
    "embedding-reader==1.8.1",
    "frozendict==2.5.1",
    "kornia==0.9.0",
    "kornia-rs==0.2.0",
    "lightning-utilities==0.15.3",
    "loguru==0.7.3",
    "pytorch-warmup==0.2.0",
    "resize-right==0.0.2",
    "rotary-embedding-torch==0.9.1",
    "torch-einops-utils==0.2.0",
    "torchmetrics==1.9.0",
    "vector-quantize-pytorch==1.32.0",
    "x-clip==0.14.4",
)
TEXT_TOKENS = 77
ROWS = {  # what is counted, tokens of a caption, target
    "train": ("samples trained", f"{TEXT_TOKENS}", 1.5),
    "train short": ("samples trained", f"{SHORTEST} to {LONGEST}", 1.5),
    "sample": ("captions sampled", f"{TEXT_TOKENS}", 3.0),
    "sample short": ("captions sampled", f"{SHORTEST} to {LONGEST}", 3.0),
}
EFFICIENCY_TARGET = {"cpu": 0.6, "cuda": 0.5}
DIFFERENCES = (
    "What differs: theirs shares one key and value over all heads (ours has one per head: an eighth more arithmetic a "
    "layer), has rotary and relative positions (ours learned ones) and projects every token at the end; ours has a "
    "Gaussian index among its tokens, for which theirs gets one text state more. Ours works on the query alone in the "
    "last layer, reads the captions once per sampling, and leaves out positions that are padding in the whole batch; "
    f"theirs pads every caption to {TEXT_TOKENS + 1} tokens."
)


def peer_folder(given: Path | None) -> Path:
    """Return a folder with dalle2-pytorch and what it needs beside the project's own packages."""
    if given is not None:
        return given
    folder = CACHE / PEER.replace("==", "-")
    if not (folder / "dalle2_pytorch").exists():
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(folder)]
        subprocess.run([*pip, *PEER_NEEDS, PEER], check=True)
    return folder


def compare(case: Case, pairs: int, peer: Path, console: Console, title: str) -> None:
    """Measure one size and print its table."""
    theirs_case = replace(case, text_tokens=case.text_tokens + 1)
    timings: dict[str, list[tuple[Timing, Timing]]] = {name: [] for name in ROWS}
    fractions = []
    with Side(f"{SIDES}.ours", case) as ours, Side(f"{SIDES}.dalle2", theirs_case, [peer]) as theirs:
        for _ in range(pairs):
            for name, pair in timings.items():
                pair.append((ours.work(name), theirs.work(name)))
            fractions.append(flop_fraction(ours))
    console.print(table_of(case, timings, title))
    wall, used = zip(*fractions, strict=True)
    console.print(
        f"training step of {ours.constants['train_flops'] / 1e9:.0f} GFLOP, optimiser included: "
        f"{statistics.median(wall):.0%} ({min(wall):.0%} to {max(wall):.0%}) of the rate of a large matmul, "
        f"{statistics.median(used):.0%} by CPU time; target {EFFICIENCY_TARGET[case.device]:.0%}\n"
    )


def flop_fraction(ours: Side) -> tuple[float, float]:
    """Return the FLOP/s of a training step over those of a large matmul beside it, by the clock and by CPU time."""
    before, step, after = (ours.work(name) for name in ("matmul", "train", "matmul"))
    ratio = ours.constants["train_flops"] / ours.constants["matmul_flops"]
    return (
        ratio * min(before.seconds, after.seconds) / step.seconds,
        ratio * min(before.cpu_seconds, after.cpu_seconds) / step.cpu_seconds,
    )


def table_of(case: Case, timings: dict[str, list[tuple[Timing, Timing]]], title: str) -> Table:
    """Return the table of one size."""
    table = Table(title=title, title_justify="left")
    for heading in ("a second", "tokens", "ours", "dalle2", "ratio (range)", "by CPU time", "target"):
        table.add_column(heading, justify="left" if heading == "a second" else "right")
    for name, pairs in timings.items():
        what, captions, target = ROWS[name]
        rows = case.batch if name.startswith("train") else case.captions
        rates = (rows / statistics.median(side.seconds for side in sides) for sides in zip(*pairs, strict=True))
        ratios = [theirs.seconds / ours.seconds for ours, theirs in pairs]
        used = statistics.median(theirs.cpu_seconds / ours.cpu_seconds for ours, theirs in pairs)
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.add_row(what, captions, *(f"{rate:.3g}" for rate in rates), spread, f"{used:.2f}", f"{target:g}")
    return table


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=get_args(NetworkSize), default=["tiny", "base"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16, help="pairs of a training step")
    parser.add_argument("--captions", type=int, default=2, help="captions of one sampling")
    parser.add_argument("--steps", type=int, default=64, help="steps of sampling")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peer", type=Path, help="folder with dalle2-pytorch; none: install it into the cache")
    parser.add_argument("--kinds", action="store_true", help="compare the fast kinds with 64-step diffusion")
    parser.add_argument("--train-steps", type=int, default=600, help="--kinds: steps of each training")
    return parser.parse_args()


def main() -> None:
    """Compare every size that is asked for."""
    options, console = parse_options(), Console(width=max(120, Console().width))
    if options.kinds:
        torch.set_num_threads(options.threads)
        for size in options.sizes:
            compare_kinds(KindsCase(size=size, steps=options.train_steps, device=options.device), console)
        return
    peer = peer_folder(options.peer)
    for size in options.sizes:
        network = transformer_of_size(size)
        case = Case(
            width=network.width,
            num_layers=network.num_layers,
            num_heads=network.num_heads,
            text_tokens=TEXT_TOKENS,
            batch=options.batch,
            captions=options.captions,
            num_steps=options.steps,
            precision=options.precision,
            threads=options.threads,
            device=options.device,
        )
        title = (
            f"{size}: width {case.width}, {case.num_layers} layers, {case.num_heads} heads, batch {case.batch}, "
            f"{case.captions} captions in {case.num_steps} steps, {case.precision}, {case.device}, "
            f"{case.threads} threads, {options.pairs} pairs"
        )
        compare(case, options.pairs, peer, console, title)
    console.print(DIFFERENCES)


if __name__ == "__main__":
    main()
