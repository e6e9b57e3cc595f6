"""The schema of a sweep: a YAML file that names a base experiment and what to vary."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.config.messages import describe, describe_choice
from pipeline.config.schema import STAGES
from pipeline.config.yaml_files import read_yaml
from pipeline.errors import UsageError
from pipeline.names import FILE_NAME, LONGEST_NAME, GivenName
from pipeline.sweep.settings import require_kept, require_settable
from stages.contract.config import ConfigModel
from stages.contract.secrets import MASK, secrets_in
from stages.contract.texts import one_line, show_value

_PATH_OF_JSON: Final = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}/){0,9}[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}\.json")
Values = Annotated[list[Any], Field(min_length=1)]


class GroupConfig(ConfigModel):
    """Variants that belong together: what all of them set, and values of which every combination is run."""

    set: dict[str, Any] = Field(default_factory=dict, description="dotted key: value, for all variants of the group")
    grid: dict[str, Values] = Field(default_factory=dict, description="dotted key: values to combine")

    @field_validator("grid")
    @classmethod
    def _values_differ(cls, grid: dict[str, Values]) -> dict[str, Values]:
        for key, values in grid.items():
            if (again := _given_twice(values)) is not None:
                shown = one_line(format_value(key, values[again]), 80)
                raise ValueError(f"{one_line(key, 200)} has the value {shown} twice; leave one out")
        return grid

    @model_validator(mode="after")
    def _settings_hold(self) -> "GroupConfig":
        require_settable([*self.set, *self.grid])
        before: dict[str, Values] = {}
        for part, settings in (("set", {key: [value] for key, value in self.set.items()}), ("grid", self.grid)):
            for key, values in settings.items():
                require_kept(part, [key], before, "the same group")
                before[key] = values
        return self

    @property
    def settings(self) -> dict[str, list[Any]]:
        """The values of every key, in the order in which they are set."""
        return {key: [value] for key, value in self.set.items()} | self.grid


class RepeatConfig(ConfigModel):
    """The same variant again with other seeds, to show the spread."""

    keys: tuple[str, ...] = Field(min_length=1, description="dotted keys that take the value, all of them alike")
    values: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _repeats_differ(self) -> "RepeatConfig":
        require_settable(self.keys)
        if (again := _given_twice(self.values)) is not None:
            raise ValueError(f"values has {self.values[again]} twice, which is the same run; leave one out")
        return self

    @property
    def settings(self) -> dict[str, tuple[int, ...]]:
        """The values of every key."""
        return dict.fromkeys(self.keys, self.values)


class PlotConfig(ConfigModel):
    """One plot: a figure of every variant against a number.

    Without ``x``, the figure's name holds one ``*`` that stands for the number on the axis, as in
    ``cosine_true/steps_*``. With ``x``, a dotted key of the grids, its values are the axis, and the variants that
    differ in nothing else make one curve. Where one of them is no number (``null``, a text, a list), they stand side by
    side, each with its label, in the order of the grids.
    """

    figure: str
    x: str | None = None
    x_label: str = ""
    log_x: bool = False
    groups: tuple[str, ...] | None = Field(None, description="groups to show; null: all")

    @property
    def pattern(self) -> re.Pattern[str]:
        """Match the figures that it shows; the group is the number that a * stands for."""
        return re.compile(r"(\d+(?:\.\d+)?)".join(map(re.escape, self.figure.split("*"))))

    @model_validator(mode="after")
    def _star_or_axis(self) -> "PlotConfig":
        if (self.x is None) != (self.figure.count("*") == 1):
            raise ValueError(f"figure is {self.figure!r}: give either one * in it, or x, a dotted key of a grid")
        return self


class SweepConfig(ConfigModel):
    """A base experiment in many variants."""

    name: GivenName
    base: Path = Field(description="the experiment: a YAML file, relative to this one")
    groups: dict[str, GroupConfig] = Field(min_length=1)
    repeat: RepeatConfig | None = None
    documents: dict[str, str] = Field(
        default_factory=dict,
        description="stage: JSON file in its artifact whose numbers become figures, such as "
        "train_prior/validation_200/by_steps/steps_8/cosine_true",
    )
    table: dict[str, str] = Field(min_length=1, description="heading: figure, such as train_prior/cosine_true")
    plots: dict[str, PlotConfig] = Field(default_factory=dict, description="file name without ending: plot")

    @field_validator("groups")
    @classmethod
    def _groups_have_short_names(cls, groups: dict[str, GroupConfig]) -> dict[str, GroupConfig]:
        for name in groups:
            if not 0 < len(name) <= LONGEST_NAME:
                raise ValueError(f"found the name {show_value(name)}; allowed: 1 to {LONGEST_NAME} characters")
        return groups

    @field_validator("documents")
    @classmethod
    def _documents_are_of_stages(cls, documents: dict[str, str]) -> dict[str, str]:
        for stage, path in documents.items():
            if stage not in STAGES:
                raise ValueError(describe_choice(stage, STAGES))
            if not _PATH_OF_JSON.fullmatch(path):
                raise ValueError(
                    f"{stage} has {show_value(path)}; expected a JSON file in that stage's artifact, such as "
                    "validation.json"
                )
        return documents

    @field_validator("plots")
    @classmethod
    def _plots_have_file_names(cls, plots: dict[str, PlotConfig]) -> dict[str, PlotConfig]:
        for name in plots:
            if len(name) > LONGEST_NAME or not re.fullmatch(FILE_NAME, name):
                raise ValueError(
                    f"found the name {show_value(name)}, which names a file; allowed: up to {LONGEST_NAME} letters, "
                    "digits, -, _ and ., the first a letter or digit"
                )
        return plots

    @model_validator(mode="after")
    def _repeats_keep_settings(self) -> "SweepConfig":
        for name, group in self.groups.items():
            require_kept(
                "repeat.keys", () if self.repeat is None else self.repeat.keys, group.settings, f"groups.{name}"
            )
        return self

    @model_validator(mode="after")
    def _plots_name_groups(self) -> "SweepConfig":
        """Check before the axes, which are of these groups."""
        for name, plot in self.plots.items():
            if plot.groups == ():
                raise ValueError(f"plots.{name}.groups: found no group; leave it out to show all")
            for group in plot.groups or ():
                if group not in self.groups:
                    raise ValueError(f"plots.{name}.groups: {describe_choice(group, self.groups)}")
        return self

    @model_validator(mode="after")
    def _axes_are_in_grids(self) -> "SweepConfig":
        for name, plot in self.plots.items():
            grids = [group.grid for key, group in self.groups.items() if plot.groups is None or key in plot.groups]
            values = [value for grid in grids for value in grid.get(plot.x or "", ())]
            if plot.x is not None and not values:
                allowed = sorted({key for grid in grids for key in grid})
                raise ValueError(
                    f"plots.{name}.x is {plot.x!r}, which no grid of its groups has: give one of "
                    f"{', '.join(allowed) or 'none: they have no grid'}"
                )
            if plot.log_x and (odd := [value for value in values if (number_of(value) or 0) <= 0]):
                found = format_value(plot.x or "", odd[0])
                raise ValueError(
                    f"plots.{name}.log_x is true, and {plot.x} has the value {found}: only numbers above 0 have a "
                    "place on that axis: leave out log_x"
                )
        return self


def _given_twice(values: Sequence[Any]) -> int | None:
    """Return the index of the first value that stands before it too; 1 and 1.0 are alike, 1 and true are not."""
    seen: set[Any] = set()
    for index, value in enumerate(values):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        known = value if is_number else as_yaml(value)
        if known in seen:
            return index
        seen.add(known)
    return None


@dataclass(frozen=True)
class Variant:
    """One setting of the base experiment; ``settings`` are its group's and its place in the grid."""

    group: str
    settings: Mapping[str, Any]
    grid: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The variant as people read it."""
        parts = [f"{key.rpartition('.')[2]} {format_value(key, value)}" for key, value in self.grid.items()]
        return ", ".join([self.group, *parts])

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from all other variants, which a label need not do: group and settings."""
        return (self.group, *self.overrides(None, None))

    @property
    def shown_settings(self) -> dict[str, Any]:
        """The settings as they are written down: without credentials."""
        return {key: MASK if _holds_secret(key, value) else value for key, value in self.settings.items()}

    def overrides(self, repeat: RepeatConfig | None, repeat_value: int | None) -> list[str]:
        """Return the words that turn the base into this variant's run."""
        repeated = {} if repeat is None else dict.fromkeys(repeat.keys, repeat_value)
        settings = {**self.settings, **repeated}
        return [f"{key}={as_yaml(value)}" for key, value in settings.items()]


def load_sweep(path: Path, groups: Sequence[str] = (), base: Path | None = None) -> SweepConfig:
    """Read a sweep, with some of its groups or all; its base, where no other is given, is resolved beside the file."""
    tree = read_yaml(path)
    tree.setdefault("name", path.stem)
    try:
        sweep = SweepConfig.model_validate(tree)
    except ValidationError as error:
        raise UsageError(describe(error, SweepConfig, str(path))) from None
    for name in groups:
        if name not in sweep.groups:
            raise UsageError(f"{path}: groups (--group): {describe_choice(name, sweep.groups)}")
    chosen = {name: group for name, group in sweep.groups.items() if not groups or name in groups}
    return sweep.model_copy(update={"base": _base_of(sweep, path) if base is None else base, "groups": chosen})


def _base_of(sweep: SweepConfig, path: Path) -> Path:
    try:
        return (path.parent / sweep.base).resolve()
    except (OSError, RuntimeError, ValueError):  # a null byte, links in a circle
        raise UsageError(
            f"{path}: base: found {show_value(str(sweep.base))}; expected the path of a YAML file"
        ) from None


def variants_of(sweep: SweepConfig) -> Iterator[Variant]:
    """Yield every variant, group by group, the last key of a grid varying fastest."""
    for name, group in sweep.groups.items():
        for values in itertools.product(*group.grid.values()):
            grid = dict(zip(group.grid, values, strict=True))
            yield Variant(name, {**group.set, **grid}, grid)


def as_yaml(value: Any) -> str:
    """Return a value on one line, as an override on the command line holds it."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()


def _holds_secret(key: str, value: Any) -> bool:
    return any(secrets_in(value, key, options=key.startswith("storage.options")))


def number_of(value: Any) -> float | None:
    """Return a value's place on an axis of numbers, if it has one; the text 1e-3, as YAML reads it, has."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def format_value(key: str, value: Any) -> str:
    """Return a value of a setting as people read it, without credentials."""
    if _holds_secret(key, value):
        return MASK
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return "none" if value is None else repr(value) if value == "none" else str(value)
