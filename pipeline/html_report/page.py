"""The report of a run: what it is, how good, samples; then all that its stages made, folded."""

from collections.abc import Callable, Iterator, Sequence

import yaml

from pipeline.captions import format_captions
from pipeline.comparison import ABSENT, ROWS, Figure, decoder_kind, figures_of
from pipeline.end_report import end_lines
from pipeline.heartbeat import life_of
from pipeline.html_report.html import document, escape, findings_part, folded, image, table
from pipeline.inspection.inspect import Target, inspect
from pipeline.record import RunRecord
from pipeline.store import Store
from stages.contract.errors import DamagedFile
from stages.contract.texts import by_number
from stages.formats.generated_images import GRID

_CARE, _SAID = "take care", ("used", "prior", "images")


def report_page(target: Target, *, max_shards: int) -> str:
    """Return the page of a run, or of one artifact; whatever comes from data is escaped, and no request leaves it."""
    found = inspect(target, max_shards=max_shards)
    if target.record is None:
        parts = [f"<h1>{escape(target.title)}</h1>", *(findings_part(one, is_open=True) for one in found)]
        return document(target.title, parts)
    record, store = target.record, target.store
    parts = [*_heading(record, store), *_quality(record, store), *_words(record), *_samples(record, store)]
    parts.append("<h2>Details</h2>")
    parts.append(folded("Stages, with their times", [_stages(record, store)]))
    parts += [findings_part(one) for one in found]
    metrics = [_metric(record, name) for name in sorted(record.metrics, key=by_number)]
    parts.append(folded("All metrics", [table(("name", "value", "95 % interval", "n"), metrics)]))
    config = yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True)
    parts.append(folded("Configuration", [f'<pre tabindex="0">{escape(config)}</pre>']))
    return document(f"run {record.run}", parts)


def _heading(record: RunRecord, store: Store) -> Iterator[str]:
    times = record.started + (f" to {record.finished}" if record.finished else "")
    yield f'<header><h1>{escape(record.run)}</h1><p><span class="state">{escape(life_of(record, store).shown)}</span> '
    yield f'<span class="dim">{escape(times)}</span></p>'
    yield f"<p>{escape(_kind(record))}</p></header>"


def _kind(record: RunRecord) -> str:
    """Say what the models are, and which of the captions taught them."""
    kinds = {"prior": record.plan.get("train_prior"), "decoder": record.plan.get("train_decoder")}
    words = [f"a {name} of kind {entry.kind or ABSENT}" for name, entry in kinds.items() if entry]
    if record.plan.get("train_decoder"):
        words[-1] = f"a decoder of kind {decoder_kind(record)}"
    captions = {name: format_captions(entry.identity) for name, entry in record.plan.items()}
    read = [f"{name} {words}" for name, words in captions.items() if words]
    models = f"Text to image: {' and '.join(words)}." if words else "A run of stages that make no model."
    return models + (f" Of the captions, its stages read: {', '.join(read)}." if read else "")


def _quality(record: RunRecord, store: Store) -> Iterator[str]:
    figures = figures_of(record, store)
    shown = [
        f'<div><dt>{escape(name)}</dt><dd class="value">{escape(format(found.value))}</dd>'
        f'{_interval(found, format)}<dd class="about dim">{escape(found.about)}</dd></div>'
        for key, (name, format) in ROWS.items()
        if (found := figures[key]).value is not None
    ]
    yield "<h2>How good</h2>"
    yield f'<dl class="figures">{"".join(shown)}</dl>' if shown else '<p class="dim">Nothing was measured.</p>'


def _interval(figure: Figure, format: Callable[[float], str]) -> str:
    """Return the interval of a figure and of how many images it is, where they were recorded."""
    if (measure := figure.measure) is None:
        return ""
    label = "95 % " if measure.interval(format) else ""
    return f'<dd class="about">{escape(label + measure.words(format))}</dd>'


def _metric(record: RunRecord, name: str) -> tuple[object, ...]:
    measure = record.measures.get(name)
    value = f"{record.metrics[name]:.6g}"
    if measure is None:
        return name, value, "", ""
    return name, value, measure.interval("{:.6g}".format), measure.n


def _words(record: RunRecord) -> Iterator[str]:
    """Yield what the run said at its end, warnings first; of one that is not done, what failed."""
    for stage in record.stages:
        if stage.state == "failed":
            yield f'<p class="care">{escape(stage.name)} failed: {escape(stage.error)}</p>'
    lines = [line.partition(": ") for line in end_lines(record)] if record.status == "done" else []
    for label, _, text in lines:
        if label == _CARE:
            yield f'<p class="care">Take care: {escape(text)}</p>'
    kept = [(label, text) for label, _, text in lines if label in _SAID]
    yield from (f"<p><strong>{escape(label.capitalize())}:</strong> {escape(text)}</p>" for label, text in kept)


def _samples(record: RunRecord, store: Store) -> Iterator[str]:
    planned = record.plan.get("generate")
    if planned is None or "generate" not in record.artifacts:
        return
    artifact = store.artifact("generate", planned.fingerprint)
    try:
        if artifact.exists(GRID):
            with artifact.open(GRID) as file:
                yield "<h2>Samples</h2>"
                yield image(file.read(), "prompts and the images generated from them")
    except DamagedFile as error:
        yield f'<p class="care">{escape(error)}</p>'


def _stages(record: RunRecord, store: Store) -> str:
    headings, life = ("stage", "state", "seconds", "items", "fingerprint"), life_of(record, store)
    rows: Sequence[Sequence[object]] = [
        (
            one.name,
            one.state,
            "" if (seconds := life.seconds_of(one)) is None else f"{seconds:.1f}",
            "" if one.items is None else f"{one.items:,} {one.item_name}",
            one.fingerprint,
        )
        for one in record.stages
    ]
    return table(headings, rows)
