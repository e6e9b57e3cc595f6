"""Runs side by side: how good their images are, how large their models, how fast they train and generate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Group
from rich.text import Text

from models.decoders.registry import SPECS
from pipeline.captions import caption_fraction, format_fraction, pseudo_weight
from pipeline.console import PlainTable, plain
from pipeline.heartbeat import life_of
from pipeline.protocols import ProtocolGroup, describe_differences, describe_held_out, group_by_protocol
from pipeline.record import RunRecord, StageEntry, finite
from pipeline.splits import format_split, split_of
from pipeline.store import Store
from stages.contract.errors import ArtifactError
from stages.contract.measures import Measure
from stages.contract.texts import by_number
from stages.formats.model_folders import count_numbers

MODELS = {"train_decoder": "decoder", "train_upsampler": "upsampler", "train_second_upsampler": "upsampler"}
FINISHED = ("done", "reused")
ABSENT = "\N{EM DASH}"


@dataclass(frozen=True)
class Figure:
    """A measured value, and what it was measured with; without a value, why there is none."""

    value: float | None
    about: str = ""
    metric: str | None = None
    """The metric of the record that it is, where figures of other protocols may not stand beside it."""
    measure: Measure | None = None
    """Its interval, and of how many images it is, where they were recorded."""


def format_count(count: float) -> str:
    """Return a number of parameters in thousands, millions or billions."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


ROWS: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy/color": ("color right", "{:.3f}".format),
    "accuracy/shape": ("shape right", "{:.3f}".format),
    "accuracy/both": ("both right", "{:.3f}".format),
    "frechet_distance": ("Fréchet distance", "{:.4g}".format),
    "clip_score": ("CLIP score", "{:.2f}".format),
    "captions/train_prior": ("captions that the prior reads", format_fraction),
    "captions/train_clip": ("captions that train_clip reads", format_fraction),
    "split": ("images put aside", format_fraction),
    "decoder_parameters": ("parameters of the decoder", format_count),
    "prior_parameters": ("parameters of the prior", format_count),
    "training_images_per_second": ("decoder, training images/s", "{:.4g}".format),
    "sampling_images_per_second": ("decoder, sampling images/s", "{:.4g}".format),
}


def figures_of(record: RunRecord, store: Store) -> dict[str, Figure]:
    """Return every figure of the table for one run."""
    figures = {f"accuracy/{name}": _accuracy(record, name) for name in ("color", "shape", "both")}
    figures["frechet_distance"] = _evaluated(record, "frechet_distance")
    models = "independent" if "evaluate/clip_score/independent" in record.metrics else "conditioning"
    figures["clip_score"] = _evaluated(record, f"clip_score/{models}")
    figures |= {f"captions/{stage}": _captions(record, stage) for stage in ("train_prior", "train_clip")}
    figures["split"] = _split(record)
    figures["decoder_parameters"] = _decoder_parameters(record, store)
    figures["prior_parameters"] = _parameters(record, store, {"train_prior": "prior"})
    figures["training_images_per_second"] = _training_rate(record)
    figures["sampling_images_per_second"] = _measured(record, "generate", "decoder/images_per_second")
    return figures


def decoder_kind(record: RunRecord) -> str:
    """Return the kind of the run's decoder; of a cascade, how many models enlarge its images."""
    planned = record.plan
    if "train_decoder" not in planned:
        return ABSENT
    levels = sum(name in planned for name in MODELS) - 1
    return f"{planned['train_decoder'].kind or ABSENT}{f' + {levels} upsampler' if levels else ''}"


def comparison_document(records: Sequence[RunRecord], store: Store) -> dict[str, Any]:
    """Return the table, and every metric of every run."""
    document: dict[str, Any] = finite(
        {
            "runs": {
                record.run: {
                    "status": life_of(record, store).status,
                    "decoder": decoder_kind(record),
                    "figures": {name: _figure_document(figure) for name, figure in figures_of(record, store).items()},
                    "metrics": record.metrics,
                    "measures": {name: asdict(measure) for name, measure in record.measures.items()},
                    "protocols": record.protocols,
                }
                for record in records
            },
            "not_comparable": [
                *_warnings(records, [figures_of(record, store) for record in records]),
                *describe_held_out(records),
            ],
        }
    )
    return document


def _figure_document(figure: Figure) -> dict[str, Any]:
    found: dict[str, Any] = {"value": figure.value, "about": figure.about}
    if (measure := figure.measure) is not None:
        found |= {"low": measure.low, "high": measure.high, "n": measure.n, "protocol": measure.protocol}
    return found


def comparison_table(records: Sequence[RunRecord], store: Store) -> Group:
    """Return the figures, one run a column, and below them what does not fit into the cells."""
    table = _empty_table(records)
    table.row("kind of decoder", *(decoder_kind(record) for record in records))
    of_runs = [figures_of(record, store) for record in records]
    lost = [(record.run, life) for record in records if (life := life_of(record, store)).status == "lost"]
    notes: dict[str, int] = {}
    for key, (name, format) in ROWS.items():
        figures = [figures[key] for figures in of_runs]
        groups = group_by_protocol(records, [figure.metric for figure in figures])
        for runs in [group.runs for group in groups] or [tuple(range(len(records)))]:
            _add_row(
                table, name, format, [_kept(one, number, runs, groups) for number, one in enumerate(figures)], notes
            )
    words = [f"[{number}] {text}" for text, number in notes.items()]
    words += _warnings(records, of_runs)
    words += [f"{run}: {life.shown}: {life.words}" for run, life in lost]
    return Group(table, *map(plain, words))


def _add_row(
    table: PlainTable, name: str, format: Callable[[float], str], figures: Sequence[Figure], notes: dict[str, int]
) -> None:
    """Add a figure of all runs; what was measured alike for all stands with its name, and else in notes."""
    about = {figure.about for figure in figures if figure.value is not None}
    shared = about.pop() if len(about) == 1 else ""
    label = f"{name} ({shared})" if shared else name
    table.row(label, *(_cell(figure, format, shared, notes) for figure in figures))


def _kept(figure: Figure, number: int, runs: Sequence[int], groups: Sequence[ProtocolGroup]) -> Figure:
    """Return a run's figure in the row of some runs: of others nothing; what has none stands in the first row."""
    if number in runs or (figure.metric is None and runs == groups[0].runs):
        return figure
    return Figure(None)


def _warnings(records: Sequence[RunRecord], of_runs: Sequence[Mapping[str, Figure]]) -> list[str]:
    """Say which figures cannot be compared, and what differs."""
    lines = []
    for key, (name, _) in ROWS.items():
        groups = group_by_protocol(records, [figures[key].metric for figures in of_runs])
        lines += describe_differences(name, groups, records)
    return lines


def metrics_table(records: Sequence[RunRecord]) -> Group:
    """Return every metric that at least one run has, one run a column; a row for each protocol."""
    table = _empty_table(records)
    lines: list[str] = []
    for name in sorted({name for record in records for name in record.metrics}, key=by_number):
        groups = group_by_protocol(records, [name if name in record.metrics else None for record in records])
        for index, group in enumerate(groups, 1):
            table.row(
                name if len(groups) == 1 else f"{name} ({index} of {len(groups)}, not comparable)",
                *(_metric(record, name) if number in group.runs else "" for number, record in enumerate(records)),
            )
        lines += describe_differences(name, groups, records)
    return Group(table, *map(plain, [*describe_held_out(records), *lines]))


def _metric(record: RunRecord, name: str) -> str:
    value, measure = f"{record.metrics[name]:.4g}", record.measures.get(name)
    return value if measure is None else f"{value} ({measure.words('{:.4g}'.format)})"


def _empty_table(records: Sequence[RunRecord]) -> PlainTable:
    table = PlainTable(title="comparison")
    table.heading("figure")
    for record in records:
        table.heading(record.run, justify="right")
    return table


def _cell(figure: Figure, format: Callable[[float], str], shared: str, notes: dict[str, int]) -> Text:
    value = ABSENT if figure.value is None else format(figure.value)
    if figure.measure is not None:
        value = f"{value} ({figure.measure.words(format)})"
    if not figure.about or figure.about == shared:
        return Text(value)
    number = notes.setdefault(figure.about, len(notes) + 1)
    return Text(f"{value} [{number}]")


def _accuracy(record: RunRecord, name: str) -> Figure:
    found = _evaluated(record, f"accuracy/{name}")
    if found.value is None:
        return found
    chance = record.metrics.get(f"evaluate/chance/{name}")
    return replace(found, about="" if chance is None else f"chance {chance:.3f}")


def _evaluated(record: RunRecord, name: str) -> Figure:
    """Return a figure of evaluate, beside which only those of its protocol may stand."""
    found = _measured(record, "evaluate", name)
    metric = f"evaluate/{name}"
    return found if found.value is None else replace(found, metric=metric, measure=record.measures.get(metric))


def _captions(record: RunRecord, stage: str) -> Figure:
    """Return the fraction of the captions that a stage reads, and how many these are."""
    planned, entry = record.plan.get(stage), record.stage(stage)
    if planned is None:
        return Figure(None, f"the run has no stage {stage}")
    fraction = caption_fraction(planned.identity)
    counts = {} if entry is None else entry.counts
    said = [f"{counts['captioned']:,} captioned images"] if "captioned" in counts else []
    if weight := pseudo_weight(planned.identity):
        of = f" of {counts['pseudo_captioned']:,} images" if "pseudo_captioned" in counts else ""
        said.append(f"pseudo-captions{of} mixed in at {format_fraction(weight)}")
    if fraction is None:
        return Figure(None, f"{stage} did not record it when it made this artifact")
    return Figure(fraction, "; ".join(said))


def _split(record: RunRecord) -> Figure:
    """Return the fraction of the images that no stage is trained on, and how it is split further."""
    splits = [split_of(planned.identity) for planned in record.plan.values()]
    found = next((split for split in splits if split is not None), None)
    if found is None:
        return Figure(None, "no stage of the run recorded a split when it was made")
    return Figure(found.validation + found.test, format_split(found))


def _training_rate(record: RunRecord) -> Figure:
    """Return the decoder's rate; of a cascade, the first model's, and beside it those of the others."""
    found = _measured(record, "train_decoder", "samples_per_second")
    rates = {name: record.metrics.get(f"{name}/samples_per_second") for name in list(MODELS)[1:]}
    others = [f"{name}: {rate:.4g}" for name, rate in rates.items() if rate is not None]
    return Figure(found.value, "; ".join([found.about, *others]))


def _decoder_parameters(record: RunRecord, store: Store) -> Figure:
    found = _parameters(record, store, MODELS)
    decoder = record.plan.get("train_decoder")
    spec = None if decoder is None or decoder.kind is None else SPECS.get(decoder.kind)
    if found.value is None or spec is None or not spec.has_first_stage:
        return found
    return Figure(found.value, "its autoencoder included")


def _measured(record: RunRecord, stage: str, name: str) -> Figure:
    """Return a stage's metric with its note; the note of one that was not measured says why."""
    entry = record.stage(stage)
    value = record.metrics.get(f"{stage}/{name}")
    note = "" if entry is None else entry.notes.get(name, "")
    if value is not None:
        return Figure(value, note)
    return Figure(None, note or _why(record, entry, stage, name))


def _why(record: RunRecord, entry: StageEntry | None, stage: str, name: str) -> str:
    if entry is None:
        return f"{stage} is not finished" if stage in record.plan else f"the run has no stage {stage}"
    if entry.state not in FINISHED:
        return f"{stage} is {entry.state}"
    if name.startswith("accuracy/"):
        return "the scene checker evaluates images of set prior for prompts of kind scenes only"
    return f"{stage} did not measure it when it made this artifact"


def _parameters(record: RunRecord, store: Store, folders: Mapping[str, str]) -> Figure:
    """Return the numbers in the saved weights of the stages' models together."""
    stages = [stage for stage in folders if stage in record.plan]
    if not stages:
        return Figure(None, f"the run has no stage {next(iter(folders))}")
    unfinished = [stage for stage in stages if stage not in record.artifacts]
    if unfinished:
        entry = record.stage(unfinished[0])
        return Figure(None, f"{unfinished[0]} is {'not finished' if entry is None else entry.state}")
    artifacts = [(store.artifact(stage, record.plan[stage].fingerprint), folders[stage]) for stage in stages]
    try:
        return Figure(sum(count_numbers(artifact, folder) for artifact, folder in artifacts))
    except ArtifactError:
        return Figure(None, "its artifact is not in the store any more")
