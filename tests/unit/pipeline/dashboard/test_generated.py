"""Generated images: one is found without the rows of all, and runs are shown side by side a page at a time."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from pipeline.dashboard.generated import PAGE, GeneratedImages
from pipeline.dashboard.reader import NotThere, Reader
from pipeline.store import Store
from stages.formats.generated_images import GeneratedRow, gather_rows, image_file, writing_images
from stages.storage.artifact import COMPLETE, Output
from tests.factories import make_record


def write_unit(output: Output, first: int, prompts: Sequence[str], *, name: str = "prior") -> str:
    with writing_images(output, name, first, in_shards=False) as add:
        for index, prompt in enumerate(prompts, first):
            row = GeneratedRow(name, index, image_file(name, index), prompt, index, {}, None)
            add(row, np.full((4, 4, 3), index, dtype=np.uint8), None)
    output.finish_unit(f"{name}-{first:06d}", {"images": len(prompts), "resolution": 4})
    return f"{name}-{first:06d}"


def seal(output: Output) -> None:
    output.finish_artifact({"summary": "the same whatever the units hold"})
    output.write_bytes(COMPLETE, b"")


def plan_of(fingerprint: str) -> dict[str, object]:
    return {"generate": {"fingerprint": fingerprint, "identity": {}}}


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(str(tmp_path_factory.mktemp("store")))
    made.open_for_writing()
    for run in ("one", "two"):
        made.write_run(make_record(f"{run}-1", plan=plan_of(run)))
    made.write_run(make_record("none-1"))
    return made


def test_of_the_rows_those_of_the_images_unit_alone_are_read(store: Store) -> None:
    output = store.output("generate", "one")
    write_unit(output, 0, ["a", "b"])
    write_unit(output, 2, ["c", "d"])
    output.write_bytes("rows/prior-000000.jsonl", b"no row")
    output.write_bytes("samples.jsonl", b"no row")
    images = GeneratedImages(Reader(store))
    shown = Image.open(io.BytesIO(images.image("one-1", "prior", 3)))
    assert shown.convert("RGB").getpixel((0, 0)) == (3, 3, 3)
    for name, index in (("prior", 4), ("prior", -1), ("other", 2), ("../prior", 2)):
        with pytest.raises(NotThere, match="has no image"):
            images.image("one-1", name, index)


def test_runs_are_shown_side_by_side_a_page_at_a_time(store: Store) -> None:
    prompts = [f"prompt {number}" for number in range(20)]
    first, second = (store.output("generate", run) for run in ("one", "two"))
    gather_rows(first, [write_unit(first, 0, prompts), write_unit(first, 0, ["x"], name="reconstruction")])
    gather_rows(second, [write_unit(second, 0, [*prompts[:15], "another"])])
    images = GeneratedImages(Reader(store))
    runs = ["one-1", "two-1", "none-1"]
    found = images.side_by_side(runs, "", "", 8)
    assert (found["sets"], found["set"], found["total"], found["page"]) == (
        ["prior", "reconstruction"],
        "prior",
        15,
        PAGE,
    )
    assert [row["prompt"] for row in found["rows"]] == prompts[8:15]
    assert len(images.side_by_side(runs, "", "", 0)["rows"]) == PAGE
    assert [row["indices"] for row in found["rows"]] == [[number, number, None] for number in range(8, 15)]
    assert found["faults"] == ["", "", "run none-1: has no stage generate"]
    assert [row["seed"] for row in images.side_by_side(runs, "prior", "mpt 1", 0)["rows"]] == [1, 10, 11, 12, 13, 14]
    alone = images.side_by_side(runs, "reconstruction", "", 0)
    assert [row["indices"] for row in alone["rows"]] == [[0, None, None]]
    assert images.side_by_side(["none-1"], "", "", 0)["sets"] == []


@pytest.mark.parametrize("polls_between", [False, True])
def test_a_unit_of_a_finished_stage_that_is_made_again_is_read_again(store: Store, *, polls_between: bool) -> None:
    """The second of three units is made again with other prompts, and with another number of images."""
    output = store.output("generate", "one")
    units = [write_unit(output, first, [f"a {first}", f"b {first}"]) for first in (0, 2, 5)]
    gather_rows(output, units)
    seal(output)
    images = GeneratedImages(Reader(store))

    def prompts() -> list[str]:
        return [row["prompt"] for row in images.side_by_side(["one-1"], "", "", 0)["rows"]]

    assert prompts() == ["a 0", "b 0", "a 2", "b 2", "a 5", "b 5"]
    with pytest.raises(NotThere):
        images.image("one-1", "prior", 4)
    output.set_aside([f"units/{units[1]}.json", f"rows/{units[1]}.jsonl"])
    if polls_between:
        with pytest.raises(NotThere):
            images.image("one-1", "prior", 3)
        assert images.image("one-1", "prior", 0)
    write_unit(output, 2, ["c 2", "d 2", "e 2"])
    assert images.image("one-1", "prior", 4)
    gather_rows(output, units)
    seal(output)
    assert images.image("one-1", "prior", 4)
    assert prompts() == ["a 0", "b 0", "c 2", "d 2", "e 2", "a 5", "b 5"]
