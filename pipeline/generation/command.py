"""The options of ``corgi generate``; heavy imports are inside, so that ``--help`` answers at once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.generation.options import LARGEST_SEED, MOST_IMAGES
from pipeline.options import StoreOption
from pipeline.terminal import echo
from stages.contract.texts import one_line

if TYPE_CHECKING:
    from pipeline.generation.options import Options
    from pipeline.store import Store

LONGEST_LINE = 2000  # characters of path and prompt


SizeOption = Annotated[
    str | None, typer.Option("--size", help="width and height, such as 96x64: one of train_decoder.buckets; square")
]


def _count(name: str, lowest: int, about: str) -> Any:
    return typer.Option(name, min=lowest, max=MOST_IMAGES, help=about)


def generate(  # noqa: PLR0913  each option is one of the command line
    run_id: Annotated[str | None, typer.Argument(metavar="RUN", help="a run, or an exported folder")] = None,
    *,
    out: Annotated[Path, typer.Option("--out", help="folder for the images")],
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="a text to show; may be repeated")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="a file of prompts")] = None,
    column: Annotated[str | None, typer.Option("--column", help="of a csv or tsv of prompts; Prompt")] = None,
    unconditional: Annotated[int | None, _count("--unconditional", 1, "so many images of no prompt")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="an image to make variations of, or to edit")] = None,
    variations: Annotated[int | None, _count("--variations", 1, "of --image: how many; 1")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="an image file or text: where a trajectory begins")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="where it ends: an image file or a text")] = None,
    steps: Annotated[int | None, _count("--steps", 2, "images from end to end; 8")] = None,
    edit: Annotated[str | None, typer.Option("--edit", help="what --image is to show")] = None,
    instead_of: Annotated[
        str | None, typer.Option("--instead-of", help="what it shows now: moves its embedding by the texts' difference")
    ] = None,
    strength: Annotated[
        float | None, typer.Option("--strength", help="of --edit: 0 to 1, 0.6; with --instead-of: any number, 1")
    ] = None,
    candidates: Annotated[int | None, _count("--candidates", 1, "of each prompt; the best by CLIP are kept")] = None,
    keep: Annotated[int | None, _count("--keep", 1, "of --candidates: how many; 1")] = None,
    again: Annotated[
        Path | None, typer.Option("--again", help="an image that corgi generated, to make it again from its own file")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, max=LARGEST_SEED, help="another seed gives another image; 0")
    ] = None,
    size: SizeOption = None,
    store: StoreOption = "workspace",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")] = False,
) -> None:
    """Generate images with a finished run's model.

    From texts (--prompt, --prompts) or none (--unconditional), as variations of an image (--image), along a trajectory
    (--from, --to), or as an edit of an image (--image, --edit); and any such image once more (--again).
    """
    from pipeline.export.names import is_bundle
    from pipeline.generation.options import Options
    from pipeline.store import Store

    options = Options(
        run=run_id, prompt=tuple(prompt or ()), prompts=prompts, column=column, unconditional=unconditional,
        image=image, variations=variations, start=start, end=end, steps=steps, edit=edit, instead_of=instead_of,
        strength=strength, candidates=candidates, keep=keep, again=again, seed=seed, size=size,
    )  # fmt: skip
    found = Store(store)
    found.check_format()
    name = None if run_id is None else f"the folder {run_id}"
    if run_id is not None and not is_bundle(run_id):
        name = f"run {found.find_run(run_id).run}"  # a wrong name is reported before torch is loaded
    _print(_generated(found, options, out, name), as_json=as_json)


def _print(entries: Iterator[dict[str, Any]], *, as_json: bool) -> None:
    """Print a line for each image when it is written, or one document of all."""
    written = []
    for entry in entries:
        if as_json:
            written.append(entry)
        else:
            echo(_line(entry))
    if as_json:
        echo(json.dumps({"images": written}, indent=1))


def _generated(store: "Store", options: "Options", out: Path, name: str | None) -> Iterator[dict[str, Any]]:
    """Yield what is known of each image when it is written, and show the progress; ``name`` is the models' run."""
    from pipeline.console import Terminal
    from pipeline.generation.view import GenerationView

    with GenerationView(Terminal(stderr=True)) as view:
        if name is not None:
            view.loading(name)

        from pipeline.generation.run import generate_for_options

        yield from generate_for_options(store, options, out, view)


def _line(entry: dict[str, Any]) -> str:
    line = one_line(f"{entry['path']}  {entry['prompt']}", LONGEST_LINE)
    if "clip_score" in entry:
        line += f"  (CLIP score {entry['clip_score']:.2f})"
    if "pixel_equal" in entry:
        differs = f"differs by up to {entry['largest_difference']} of 255: another machine, device or version?"
        line += "  (pixel-equal)" if entry["pixel_equal"] else f"  ({differs})"
    return line
