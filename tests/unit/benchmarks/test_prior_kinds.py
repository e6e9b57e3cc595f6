"""The comparison of fast priors runs whole, on next to nothing."""

import io

from rich.console import Console

from benchmarks.prior_sides.kinds import KindsCase, compare_kinds


def test_every_kind_is_trained_timed_and_measured() -> None:
    case = KindsCase(
        pairs=40, held_out=10, embed_dim=8, hidden_dim=2, steps=1, batch=4, captions=2, rounds=1, sampling_steps=8
    )
    console = Console(file=io.StringIO(), width=140)
    compare_kinds(case, console)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    for name in ("diffusion, DDIM", "distilled, 1", "distilled, 4", "flow, 16", "projection"):
        assert f"│ {name} " in printed
    assert "R@1" in printed
