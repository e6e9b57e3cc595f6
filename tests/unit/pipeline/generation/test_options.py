"""Which options of ``corgi generate`` go together."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.generation.options import Mode, Options

FILE = Path("image.png")


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("text", {"prompt": ("a", "b"), "candidates": 4, "keep": 2}),
        ("text", {"prompts": FILE}),
        ("variation", {"image": FILE, "variations": 3}),
        ("interpolation", {"start": "a", "end": "b", "steps": 5}),
        ("edit", {"image": FILE, "edit": "a", "strength": 0.3, "candidates": 2}),
        ("arithmetic", {"image": FILE, "edit": "a", "instead_of": "b", "strength": -2.5}),
    ],
)
def test_each_request_has_its_own_options(mode: Mode, options: dict[str, Any]) -> None:
    assert Options(run="r", seed=3, **options).mode == mode


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"nothing to generate; give one of --prompt TEXT or --prompts FILE, .*--again FILE"),
        ({"prompt": ("a",), "prompts": FILE}, "found --prompt and --prompts"),
        ({"prompt": ("a",), "image": FILE}, r"--prompt has no use with --image FILE; beside it go --variations"),
        ({"prompt": ("a",), "steps": 3}, "--steps has no use with --prompt"),
        ({"prompt": ("a",), "strength": 0.5}, "--strength has no use"),
        ({"edit": "a"}, "found --image FILE --edit TEXT without --image; give --image and --edit together"),
        ({"image": FILE, "instead_of": "a"}, "without --edit"),
        ({"start": "a"}, "found --from X --to Y without --to"),
        ({"end": "a", "image": FILE}, "without --from"),
        ({"image": FILE, "candidates": 3}, "--candidates has no use"),
        ({"image": FILE, "edit": "a", "variations": 3}, "--variations has no use"),
        ({"again": FILE, "prompt": ("a",)}, "--prompt has no use with --again FILE"),
        ({"prompt": ("a",), "candidates": 2, "keep": 3}, "--keep: found 3 of 2 candidates"),
        ({"prompt": ("a",), "keep": 2}, "--keep: found 2 of 1 candidates"),
        ({"image": FILE, "edit": "a", "strength": 1.2}, r"--strength: found 1.2; allowed is 0 .* to 1"),
        ({"image": FILE, "edit": "a", "strength": float("nan")}, "--strength: found nan"),
        ({"image": FILE, "edit": "a", "instead_of": "b", "strength": float("inf")}, "--strength: found inf"),
    ],
)
def test_what_does_not_go_together_is_reported(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Options(run="r", **options)


def test_only_regenerating_needs_no_run() -> None:
    assert Options(again=FILE).mode == "again"
    with pytest.raises(UsageError, match="no RUN was named"):
        Options(prompt=("a",))
    with pytest.raises(UsageError, match="--seed has no use with --again"):
        Options(again=FILE, seed=1)
