"""The card of an exported model, README.md: what it is, how good, what it learned from, how to use it."""

from collections.abc import Callable, Sequence
from typing import Final

from huggingface_hub import ModelCardData

from pipeline.captions import format_captions
from pipeline.comparison import ROWS, Figure, decoder_kind, figures_of
from pipeline.markdown import escape, table
from pipeline.record import RunRecord
from pipeline.store import Store
from pipeline.summary import FAILED, SKIPPED
from stages.contract.installing import install_words
from stages.contract.texts import by_number
from stages.formats.attributions import read_attributions

_NOT_STATED: Final = "not stated: whoever passes the model on has to say"
_QUALITY: Final = ("figure", "value", "95 % interval", "n", "measured on")
_MEASURES: Final = ("measure", "value", "95 % interval", "n", "protocol")
_SHORT: Final = 8  # characters of a protocol's digest
_STEPS: Final = ("train_clip", "train_prior", "train_decoder", "train_upsampler", "train_second_upsampler")


def write_card(record: RunRecord, store: Store, *, licence: str | None, others: Sequence[str], has_grid: bool) -> str:
    """Return the card's Markdown; ``others`` are the parts that other programs load."""
    front = ModelCardData(
        license=licence or "unknown", library_name="corgi-pipeline", pipeline_tag="text-to-image",
        tags=_kinds(record),
    )  # fmt: skip
    paragraphs = [
        f"---\n{front.to_yaml()}\n---",
        f"# {escape(record.name)}",
        f"A text-to-image model: CLIP, a prior (caption to {_space(record)} image embedding) and a decoder of kind "
        f"{decoder_kind(record)} (embedding to image), made by the run {escape(record.run)} of Corgi Pipeline. "
        f"{_setting(record)}",
        *(["![Prompts and the images made of them](samples.png)"] if has_grid else []),
        "## Use\n\n"
        f"It needs Corgi Pipeline: {install_words()}.\n\n"
        "```python\nfrom pipeline import TextToImage\n\n"
        'model = TextToImage.load("this folder")\nimages = model.generate(["a prompt"], seed=0)\n```\n\n'
        '```bash\ncorgi generate "this folder" --prompt "a prompt" --out images\n```',
        *([_others(others, _space(record))] if others else []),
        "## How good\n\n" + _table(_QUALITY, _quality(record, store)),
        *_measurements(record),
        "## What it learned from\n\n" + _table(("", ""), _data(record, store)),
        "## How it was trained\n\n" + _table(("stage", "settings"), _training(record)),
        f"## Licence\n\nOf the model: {escape(licence or _NOT_STATED)}. "
        f"Of the images and captions: {_works(record, store)}.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def _kinds(record: RunRecord) -> list[str]:
    kinds = [record.plan[name].kind for name in ("train_prior", "train_decoder")]
    return [kind.replace("_", "-") for kind in kinds if kind]


def _setting(record: RunRecord) -> str:
    """Say which of the captions taught it."""
    read = {name: format_captions(entry.identity) for name, entry in record.plan.items()}
    words = ", ".join(f"{name} {said}" for name, said in read.items() if said)
    return f"Of the captions, its stages read: {words}." if words else "None of its stages reads captions."


def _space(record: RunRecord) -> str:
    """Return the name of what embeds images for the prior and the decoder."""
    planned = record.plan.get("generate")
    images = {} if planned is None else planned.identity.get("clip", {}).get("images", {})
    return escape(str(images.get("kind", "CLIP")).replace("_", " "))


def _others(names: Sequence[str], space: str) -> str:
    lines = "\n".join(f"- `{name}`" for name in names)
    return (
        "diffusers (`from_pretrained`) and loaders of LoRA load these parts; the networks take "
        f"{space} image embeddings in place of texts, which such a program has to supply:\n\n{lines}"
    )


def _quality(record: RunRecord, store: Store) -> list[tuple[str, str, str, str, str]]:
    figures = figures_of(record, store)
    return [
        (name, format(figure.value), *_measured(figure, format), _about(key, figure))
        for key, (name, format) in ROWS.items()
        if (figure := figures[key]).value is not None
    ]


def _about(key: str, figure: Figure) -> str:
    """Return what a figure was measured on; of an accuracy, the table of runs says what chance gives."""
    read = "rendered scenes, read by the scene checker" if key.startswith("accuracy/") else ""
    return "; ".join(escape(words) for words in (read, figure.about) if words)


def _measurements(record: RunRecord) -> list[str]:
    """Return every recorded measure with the protocol that it was measured under, and these protocols."""
    if not record.measures:
        return []
    rows = [
        (
            escape(name), f"{one.value:.4g}", one.interval("{:.4g}".format), f"{one.n:,}",
            f"`{escape(one.protocol[:_SHORT])}`",
        )
        for name, one in sorted(record.measures.items(), key=lambda item: by_number(item[0]))
    ]  # fmt: skip
    used = {one.protocol for one in record.measures.values()}
    words = [
        f"- `{escape(digest[:_SHORT])}`: {'; '.join(f'{escape(key)}: {escape(value)}' for key, value in how.items())}"
        for digest, how in sorted(record.protocols.items())
        if digest in used
    ]
    return [
        "### All measures\n\n" + _table(_MEASURES, rows),
        "### Protocols\n\nMeasures of different protocols are not to be compared.\n\n" + "\n".join(words),
    ]


def _measured(figure: Figure, format: Callable[[float], str]) -> tuple[str, str]:
    """Return the interval, and of how many images or pairs a figure is, as far as they are known."""
    measure = figure.measure
    return ("", "") if measure is None else (measure.interval(format), f"{measure.n:,}")


def _data(record: RunRecord, store: Store) -> list[tuple[str, str]]:
    """Return where images and captions come from, how many, and what was lost or skipped."""
    planned, entry = record.plan.get("download_shards"), record.stage("download_shards")
    if planned is None:
        return [("source", "embeddings that were there before")]
    source = planned.identity.get("source", {})
    rows = [("source", escape(source.get("kind", "?")))]
    rows += [(f"source: {escape(name)}", escape(value)) for name, value in source.items() if _is_said(name, value)]
    rows += [("data, by fingerprint", f"`{planned.fingerprint}`"), ("works and their licences", _works(record, store))]
    counts = {} if entry is None else entry.counts
    rows += [(name, f"{counts[name]:,}") for name in ("images", "captioned") if name in counts]
    if counts.get("images") and "captioned" in counts:
        rows.append(("captioned fraction", f"{counts['captioned'] / counts['images']:.1%}"))
    rows += _taught(record)
    rows += _retrieved(record)
    rows += _pseudo_captions(record)
    for prefix, words in ((FAILED, "lost"), (SKIPPED, "skipped")):
        rows += [
            (f"{words}: {name.removeprefix(prefix).replace('_', ' ')}", f"{count:,}")
            for name, count in sorted(counts.items())
            if name.startswith(prefix)
        ]
    return rows


def _taught(record: RunRecord) -> list[tuple[str, str]]:
    """Return how many captioned images the prior was trained on; of an earlier version's run, how many it read."""
    prior = record.stage("train_prior")
    counts = {} if prior is None else prior.counts
    if "training_pairs" in counts:  # pseudo-captions are captions, too
        return [("captioned images that the prior learned from", f"{counts['training_pairs']:,}")]
    if "captioned" in counts:
        return [("captioned images that the prior read, held-out ones among them", f"{counts['captioned']:,}")]
    return []


def _is_said(name: str, value: object) -> bool:
    """Whether an entry of the source's section says something in a word or a number."""
    return name != "kind" and isinstance(value, str | int | float) and value != ""


def _retrieved(record: RunRecord) -> list[tuple[str, str]]:
    """Return whether the folder holds embeddings of the images, which decode to images like them."""
    planned = record.plan.get("generate")
    held = planned is not None and planned.identity.get("retrieval") is not None
    words = "in index/: to these, embeddings of captions are moved before they are decoded"
    return [("embeddings of training images", words)] if held else []


def _pseudo_captions(record: RunRecord) -> list[tuple[str, str]]:
    """Return which captions no person wrote, and what wrote them."""
    entry, prior = record.stage("caption_images"), record.stage("train_prior")
    rows: list[tuple[str, str]] = []
    if entry is not None:
        made = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in entry.counts.items())
        rows.append(("pseudo-captions by", escape(entry.notes.get("captioner", "a model that was not recorded"))))
        rows += [("its revision", escape(entry.notes.get("revision", ""))), ("pseudo-captions", escape(made))]
    if prior is not None and "pseudo_captioned" in prior.counts:
        rows.append(("images with pseudo-captions that the prior could read", f"{prior.counts['pseudo_captioned']:,}"))
    if prior is not None and (validated := prior.notes.get("validated_on")):
        rows.append(("the prior is validated on", escape(validated)))
    return rows


def _works(record: RunRecord, store: Store) -> str:
    """Return whose works the images are, and their licences, where their source knew."""
    planned = record.plan.get("download_shards")
    artifact = None if planned is None else store.artifact("download_shards", planned.fingerprint)
    works = read_attributions(artifact).works if artifact is not None else ()
    return "; ".join(map(escape, works)) or _NOT_STATED


def _training(record: RunRecord) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name in _STEPS:
        section = record.config.get(name)
        if not isinstance(section, dict) or name not in record.plan:
            continue
        training = section.get("training") or {}
        known = {"kind": section.get("kind"), "resolution": section.get("resolution")}
        known |= {key: training.get(key) for key in ("num_steps", "batch_size", "learning_rate", "precision")}
        words = ", ".join(f"{key} {value}" for key, value in known.items() if value is not None)
        rows.append((name, escape(f"{words}; fingerprint {record.plan[name].fingerprint}")))
    return rows


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(table(headings, rows)) if rows else "Nothing was measured."
