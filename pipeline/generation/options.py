"""The options of ``corgi generate``: which mode they ask for, and which go together."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from pipeline.errors import UsageError
from stages.contract.parsing import is_text, shown

Mode = Literal["text", "unconditional", "variation", "interpolation", "edit", "arithmetic", "again"]

DEFAULT_STEPS = 8
LARGEST_SEED = 2**53
MOST_IMAGES = 1_000_000
LONGEST_TEXT = 10_000  # characters
MOST_STRENGTH = 1_000.0
DEFAULT_STRENGTH = {"edit": 0.6, "arithmetic": 1.0}

#: How each mode is asked for, which options it needs, and which it takes.
_MODES: dict[Mode, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "text": (
        "--prompt TEXT or --prompts FILE",
        (),
        ("prompt", "prompts", "column", "candidates", "keep", "seed", "size", "run"),
    ),
    "unconditional": ("--unconditional N", ("unconditional",), ("seed", "size", "run")),
    "variation": ("--image FILE", ("image",), ("variations", "seed", "size", "run")),
    "interpolation": ("--from X --to Y", ("from", "to"), ("steps", "seed", "size", "run")),
    "edit": ("--image FILE --edit TEXT", ("image", "edit"), ("strength", "candidates", "keep", "seed", "size", "run")),
    "arithmetic": (
        "--image FILE --edit TEXT --instead-of TEXT",
        ("image", "edit", "instead_of"),
        ("strength", "candidates", "keep", "seed", "size", "run"),
    ),
    "again": ("--again FILE", ("again",), ("run",)),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the command that say what is generated; None or empty: not given."""

    run: str | None = None
    prompt: tuple[str, ...] = ()
    prompts: Path | None = None
    column: str | None = None
    unconditional: int | None = None
    image: Path | None = None
    variations: int | None = None
    start: str | None = None
    end: str | None = None
    steps: int | None = None
    edit: str | None = None
    instead_of: str | None = None
    strength: float | None = None
    candidates: int | None = None
    keep: int | None = None
    again: Path | None = None
    seed: int | None = None
    size: str | None = None

    def __post_init__(self) -> None:
        given, (asked, needed, taken) = self._given(), _MODES[self.mode]
        missing = [name for name in needed if name not in given]
        stray = [name for name in given if name not in (*needed, *taken)]
        if missing:
            raise UsageError(f"generate: found {asked} without {_words(missing)}; give {_words(needed)} together")
        if stray:
            also = f"; beside it go {_words([name for name in taken if name != 'run'])}" if taken else ""
            raise UsageError(f"generate: {_words(stray)} has no use with {asked}{also}; leave it out")
        if self.prompt and self.prompts:
            raise UsageError("generate: found --prompt and --prompts; give one of them")
        if self.column is not None and self.prompts is None:
            raise UsageError("generate: found --column without --prompts; give the file that has the column")
        if self.mode != "again" and self.run is None:
            raise UsageError(
                "generate: no RUN was named; give a run's id or its beginning (corgi status shows all), or the folder "
                "of an exported one"
            )
        self._check_texts()
        self._check_numbers()

    @property
    def mode(self) -> Mode:
        """The mode that is asked for."""
        if self.again is not None:
            return "again"
        if self.start is not None or self.end is not None:
            return "interpolation"
        if self.instead_of is not None:
            return "arithmetic"
        if self.edit is not None:
            return "edit"
        if self.image is not None:
            return "variation"
        if self.unconditional is not None or self.prompt or self.prompts is not None:
            return "text" if self.unconditional is None else "unconditional"
        raise UsageError(
            f"generate: nothing to generate; give one of {', '.join(asked for asked, _, _ in _MODES.values())}"
        )

    @property
    def used_strength(self) -> float:
        """The strength of an edit."""
        return DEFAULT_STRENGTH[self.mode] if self.strength is None else self.strength

    def _given(self) -> list[str]:
        names = {"start": "from", "end": "to"}
        held = {names.get(field.name, field.name): getattr(self, field.name) for field in fields(self)}
        return [name for name, value in held.items() if value is not None and value != ()]

    def _check_texts(self) -> None:
        for text in (*self.prompt, self.edit, self.instead_of, self.start, self.end):
            if text is not None and not (is_text(text) and len(text) <= LONGEST_TEXT):
                raise UsageError(
                    f"generate: found {shown(text)!r}; give texts of at most {LONGEST_TEXT} characters in UTF-8"
                )

    def _check_numbers(self) -> None:
        kept, made = self.keep or 1, self.candidates or 1
        if kept > made:
            raise UsageError(f"--keep: found {kept} of {made} candidates; give at most that, or more with --candidates")
        if self.strength is not None:
            require_strength(self.strength, "--strength", is_noise=self.mode == "edit")


def require_strength(strength: float, where: str, *, is_noise: bool) -> None:
    """Check how strong an edit is to be, by noise or by the embedding.

    Raises:
        UsageError: it is none.
    """
    if is_noise and not 0.0 <= strength <= 1.0:
        raise UsageError(f"{where}: found {strength}; allowed is 0 (the image as it is) to 1 (a new image)")
    if not abs(strength) <= MOST_STRENGTH:
        raise UsageError(f"{where}: found {strength}; give a finite number, such as 1")


def _words(names: tuple[str, ...] | list[str]) -> str:
    words = ["RUN" if name == "run" else f"--{name.replace('_', '-')}" for name in names]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
