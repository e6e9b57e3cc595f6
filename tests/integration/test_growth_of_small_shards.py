"""A pile that grows by little every day: its small shards are put together of what they hold, without the source."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.contract.runner import run_stage
from stages.download_shards.growth import MOST_SMALL_SHARDS, GrowthRecord
from stages.download_shards.stage import run
from stages.formats.shards import read_entries, read_table
from stages.storage.artifact import Artifact
from tests.factories import interrupt_after, make_context, serve_folder
from tests.integration.test_growth_of_sources import Pile, keys, names_of, png

AT_FIRST, EVERY_DAY = 3, 2


class DailyList:
    """A list to which addresses are added every day; a day later they have died."""

    def __init__(self, folder: Path, base: str) -> None:
        self._served, self._listed, self._base = folder / "served", folder / "list.jsonl", base
        self._rows: list[dict[str, Any]] = []
        source = {"kind": "url_list", "path": str(self._listed)}
        options = {"allowed_networks": ["127.0.0.1/32"], "retries": 0, "min_yield": 0.5, "rows_per_shard": 100}
        self.pile = Pile(folder, source, **options)

    def add(self, count: int = EVERY_DAY) -> None:
        """Begin a day: what was served before is gone."""
        for file in self._served.iterdir():
            file.unlink()
        first, day = len(self._rows), len(self._rows) // EVERY_DAY
        for number in range(first, first + count):
            (self._served / f"{number}.png").write_bytes(png(number))
            self._rows.append({"url": f"{self._base}/{number}.png", "number": number})
        if day == 3:  # further columns, of other types than before
            self._rows[-1] |= {"number": "none", "more": [1]}
        if day == 4:  # an address that is listed already, whose image cannot be had any more
            self._rows.append({"url": f"{self._base}/0.png", "number": -1})
        self._listed.write_text("".join(json.dumps(row) + "\n" for row in self._rows))


@pytest.fixture
def daily(tmp_path: Path) -> Iterator[DailyList]:
    (tmp_path / "served").mkdir()
    with serve_folder(tmp_path / "served") as base:
        yield DailyList(tmp_path, base)


def grow_until_small_shards_are_too_many(daily: DailyList) -> Artifact:
    daily.add(AT_FIRST)
    made, _ = daily.pile.run()
    for _ in range(MOST_SMALL_SHARDS):
        daily.add()
        made, _ = daily.pile.run()
    assert len(names_of(made)) == MOST_SMALL_SHARDS + 1
    return made


def images_by_key(artifact: Artifact) -> dict[str, bytes | None]:
    return {entry.key: entry.image for name in names_of(artifact) for entry in read_entries(artifact, name)[0]}


def test_images_whose_addresses_have_died_stay_when_small_shards_are_put_together(daily: DailyList) -> None:
    before = grow_until_small_shards_are_too_many(daily)
    entries = sum(len(read_entries(before, name)[0]) for name in names_of(before))
    daily.add()
    plan = daily.pile.plan()[1]
    assert plan.reason.startswith("0 of 2 shards reused from artifact ")
    assert plan.reason.endswith(
        f", 1 made again without fetching, 1 new, because {EVERY_DAY} entries are new or changed"
    )
    after, counts = daily.pile.run()
    assert (names_of(after), counts["remade_shards"]) == (["00000", "00001"], 1)
    assert (counts["rows"], counts["images"]) == (entries + EVERY_DAY, len(keys(before)) + EVERY_DAY)
    assert GrowthRecord.of(after).kept_entries == entries
    assert keys(after)[: len(keys(before))] == keys(before)

    rows = [entry.row for entry in read_entries(after, "00000")[0]]
    assert len({row["key"] for row in rows}) == len(rows)
    twice = [row for row in rows if row["url"] == rows[0]["url"]]
    assert [row["key"] for row in twice] == [rows[0]["key"], f"{rows[0]['key']}+1"]
    assert [row["status"] for row in twice] == ["success", "failed_to_download"]
    assert {row["number"] for row in rows} >= {"0", "none"}  # as texts, as there is a text among the numbers
    stored = images_by_key(after)
    assert all(stored[key] == image for key, image in images_by_key(before).items() if image is not None)

    daily.add()
    third, counts = daily.pile.run()  # finds the rows of the shard that was put together
    assert counts["reused_shards"] == 2
    assert keys(third)[: len(keys(after))] == keys(after)


def test_a_run_that_is_interrupted_goes_on_with_the_same_shards(daily: DailyList) -> None:
    grow_until_small_shards_are_too_many(daily)
    daily.add()
    store, plan = daily.pile.plan()
    output = store.output(plan.name, plan.fingerprint)
    with pytest.raises(KeyboardInterrupt):
        run_stage(
            run, plan.config, inputs={}, output=output, context=make_context(map_shards=interrupt_after(1)),
            identity=plan.identity,
        )  # fmt: skip
    begun = names_of(output)
    after, counts = daily.pile.run()
    assert (begun, names_of(after), after.fingerprint) == (["00000"], ["00000", "00001"], plan.fingerprint)
    assert counts["images"] == AT_FIRST + EVERY_DAY * (MOST_SMALL_SHARDS + 1)


def test_of_a_damaged_small_shard_alone_the_rows_are_fetched(
    daily: DailyList, caplog: pytest.LogCaptureFixture
) -> None:
    before = grow_until_small_shards_are_too_many(daily)
    (Path(before.uri) / "shards" / "00002.tar").write_bytes(b"damaged")
    daily.add()
    _, counts = daily.pile.run()
    assert "00002.tar" in caplog.text
    assert "shard 00000 is made again" in caplog.text
    lost = 1 + EVERY_DAY  # the repeated address, and what the damaged shard held, whose addresses have died
    assert (counts["rows"] - counts["images"], counts["failed_http_404"]) == (lost, lost)


def test_a_copy_whose_original_comes_later_now_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    pile = Pile(tmp_path, {"kind": "folder", "path": str(folder)}, drop_duplicate_images=True, rows_per_shard=5)
    (folder / "a.png").write_bytes(png(0))  # in a small shard before the large one
    pile.run()
    for name, number in {"copy": 0, "b": 1, "c": 2, "d": 3, "e": 4}.items():
        (folder / f"{name}.png").write_bytes(png(number))
    _, counts = pile.run()
    assert (counts["images"], counts["failed_duplicate_content"]) == (5, 1)
    for number in range(0, EVERY_DAY * (MOST_SMALL_SHARDS + 1), EVERY_DAY):
        for new in range(number, number + EVERY_DAY):
            (folder / f"f{new:02d}.png").write_bytes(png(10 + new))
        made, counts = pile.run()
    assert counts["remade_shards"] == 4  # of b to e, and three of the small ones, of which the last stays whole
    assert (counts["images"], counts["failed_duplicate_content"]) == (5 + EVERY_DAY * (MOST_SMALL_SHARDS + 1), 1)
    rows = {row["url"]: row["status"] for name in names_of(made) for row in read_table(made, name).to_pylist()}
    assert [name for name, status in rows.items() if status != "success"] == ["copy.png"]
    assert pile.makes_the_same_of_nothing(made)
