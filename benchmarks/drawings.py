"""Language-free on drawings: images of names beside the TRUE drawing of the artist whose drawings had no captions.

Command: python -m benchmarks.drawings RUN [RUN ...] [--clip RUN] [--store workspace] [--out workspace/drawings]

RUN is a run of configs/drawings/twemoji.yaml or openmoji.yaml (an id, or how it begins; several are seeds, whose
spread is shown). Each prompt is the name of a concept. Its image is compared with all true drawings of that artist of
concepts that all four artists drew, under features that conditioned nothing: EfficientNet-Lite0's (ImageNet, from
PyPI), and with --clip those of a CLIP model trained apart (configs/drawings/evaluator.yaml). The table gives how often
the true drawing is among the first 1, 5 and 10, and its median rank, ties taking the last of their ranks:

    ours         the prior's embedding of the name, decoded
    no prior     the text embedding of the name in its place
    unrelated    ours of another name: what chance gives
    ceiling      the embedding of the true drawing, decoded

for concepts whose drawing the decoder has seen without a caption, and for the tenth held out from everything. A grid
for people to look at is written beside the table as JSON; the works and licences stand under it.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.drawings_sides.features import EfficientNetFeatures, Features, clip_features
from benchmarks.drawings_sides.ranks import figures_of, ranks_of
from benchmarks.drawings_sides.sheet import write_sheet
from benchmarks.drawings_sides.truth import Truth, read_truth
from pipeline.config.schema import RunConfig
from pipeline.errors import UsageError
from pipeline.generation.models import load_system
from pipeline.record import RunRecord
from pipeline.store import Store
from stages.contract.errors import StageError
from stages.download_shards.config import DrawingsSource
from stages.inference.text_to_image import TextToImageSystem

SETS = ("ours", "no prior", "unrelated", "ceiling")
SHOWN = 12  # concepts of each kind on the grid
HEADINGS = ("R@1", "R@5", "R@10", "median rank")


@dataclass(frozen=True)
class Options:
    """What is generated, and where the grid goes."""

    out: Path
    prompts: int = 300
    """Concepts of each kind at most."""
    seed: int = 0


def generate_sets(system: TextToImageSystem, truth: Truth, rows: Sequence[int], seed: int) -> dict[str, np.ndarray]:
    """Return the images of every set for these concepts; the seed of an image is its concept's number plus ``seed``."""
    names = [truth.names[row] for row in rows]
    seeds = [seed * 1_000_003 + row for row in rows]
    imagined, text = system.imagine(names, seeds), system.encode_as_images(names)
    true = torch.cat([system.images.encode_images(truth.images[[row]]) for row in rows])
    ours = system.decode(imagined, seeds)
    return {
        "ours": ours,
        "no prior": system.decode(text, seeds),
        "unrelated": np.roll(ours, 1, axis=0),
        "ceiling": system.decode(true, seeds),
    }


def evaluate(
    sets: Mapping[str, np.ndarray], rows: Sequence[int], features: Features, gallery: torch.Tensor
) -> dict[str, dict[str, float]]:
    """Return the figures of each set under one kind of features; ``gallery`` holds those of all true drawings."""
    return {name: figures_of(ranks_of(features(images), gallery, rows)) for name, images in sets.items()}


def measure(
    system: TextToImageSystem, source: DrawingsSource, name: str, evaluators: Mapping[str, Features], options: Options
) -> dict[str, object]:
    """Return the figures of one system by features, concepts and set, and write its grid, ``<name>.png``."""
    truth = read_truth(source)
    galleries = {kind: features(truth.images) for kind, features in evaluators.items()}
    works = [str(one) for one in truth.works]
    found: dict[str, object] = {"run": name, "drawings": len(truth.names), "works": works}
    shown: list[tuple[Sequence[int], Mapping[str, np.ndarray]]] = []
    for part, all_rows in {"seen without captions": truth.seen, "held out": truth.held_out}.items():
        rows = all_rows[: options.prompts]
        sets = generate_sets(system, truth, rows, options.seed)
        shown.append((rows[:SHOWN], {kind: images[:SHOWN] for kind, images in sets.items()}))
        found[part] = {"prompts": len(rows)} | {
            kind: evaluate(sets, rows, features, galleries[kind]) for kind, features in evaluators.items()
        }
    write_sheet(options.out / f"{name}.png", truth, shown)
    return found


def source_of(record: RunRecord) -> DrawingsSource:
    """Return which drawings a run's decoder learned from."""
    section = RunConfig.model_validate(record.config).download_shards
    source = section.source if section is not None else None
    if source is None or source.kind != "drawings" or len(source.sets) != 1 or source.concepts != "seen":
        raise UsageError(
            f"run {record.run}: expected a run on one artist's drawings, without the held-out concepts: name a "
            "run of configs/drawings/twemoji.yaml or openmoji.yaml"
        )
    return source


def table_of(results: Sequence[Mapping[str, object]]) -> Table:
    """Return the table; several runs give mean ± standard deviation over them."""
    table = Table(title=f"the true drawing among {results[0]['drawings']}, {len(results)} run(s)", title_justify="left")
    for heading in ("evaluator", "concepts", "set", *HEADINGS):
        table.add_column(heading, justify="right" if heading in HEADINGS else "left")
    parts = [name for name, value in results[0].items() if isinstance(value, dict)]
    for part in parts:
        for evaluator in [name for name in results[0][part] if name != "prompts"]:  # type: ignore[attr-defined]
            for name in SETS:
                figures = [result[part][evaluator][name] for result in results]  # type: ignore[index]
                cells = [_cell([one[heading] for one in figures], heading) for heading in HEADINGS]
                table.add_row(evaluator, f"{part} ({results[0][part]['prompts']})", name, *cells)  # type: ignore[index]
    return table


def _cell(values: Sequence[float], heading: str) -> str:
    digits = 0 if heading == "median rank" else 3
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def main(words: Sequence[str] | None = None) -> None:
    """Measure all runs, print the table, write JSON and grids."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--clip", metavar="RUN", help="run of configs/drawings/evaluator.yaml")
    parser.add_argument("--store", default="workspace")
    parser.add_argument("--out", type=Path, default=Path("workspace/drawings"))
    parser.add_argument("--prompts", type=int, default=300, help="concepts of each kind at most")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    options = Options(arguments.out, arguments.prompts, arguments.seed)
    try:
        store = Store(arguments.store)
        evaluators: dict[str, Features] = {"EfficientNet-Lite0": EfficientNetFeatures()}
        if arguments.clip is not None:
            evaluators["CLIP trained apart"] = clip_features(store, store.find_run(arguments.clip))
        records = [store.find_run(name) for name in arguments.runs]
        results = [
            measure(load_system(store, record), source_of(record), record.run, evaluators, options)
            for record in records
        ]
    except (UsageError, StageError) as error:
        sys.exit(f"benchmarks.drawings: {error}")
    (arguments.out / "drawings.json").write_text(json.dumps(results, indent=1))
    Console().print(table_of(results))
    sys.stdout.write("".join(f"{work}\n" for work in results[0]["works"]))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
