"""Whether enough became images: new shards count by themselves, and shards of repetitions alone do not count."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.mapping import Items, MakeWorker, WorkerResources, map_in_process
from stages.contract.errors import YieldTooLow
from stages.contract.runner import run_stage
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run
from stages.formats.shards import ShardRecord
from stages.storage.artifact import Output
from tests.factories import make_context, serve_folder
from tests.integration.test_growth_of_sources import ROWS, Pile, keys, png

LOCAL = {"allowed_networks": ["127.0.0.1/32"], "retries": 0, "min_yield": 0.5}


def save_images(folder: Path, numbers: Sequence[int]) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"{number}.png").write_bytes(png(number))


@pytest.mark.parametrize(("probe_shards", "num_tried"), [(1, 1), (2, 2), (0, 3), (5, 3)])
def test_new_shards_without_images_are_not_hidden_behind_those_taken_over(
    tmp_path: Path, probe_shards: int, num_tried: int
) -> None:
    served, listed = tmp_path / "served", tmp_path / "list.txt"
    old, new = range(6 * ROWS), range(6 * ROWS, 9 * ROWS)
    save_images(served, old)
    with serve_folder(served) as base:
        pile = Pile(tmp_path, {"kind": "url_list", "path": str(listed)}, **LOCAL | {"probe_shards": probe_shards})
        listed.write_text("\n".join(f"{base}/{number}.png" for number in old))
        first, _ = pile.run()
        listed.write_text("\n".join(f"{base}/{number}.png" for number in (*old, *new)))
        store, plan = pile.plan()
        begun = store.artifact(plan.name, plan.fingerprint)
        for _ in range(2):  # the second time all shards taken over are done
            with pytest.raises(YieldTooLow, match=rf"0 of {num_tried * ROWS} (new )?entries became images .*http_404"):
                pile.run()
            assert len(ShardRecord.done(begun)) == 6  # those without images are not final
        save_images(served, new)
        second, counts = pile.run()
    assert second.fingerprint == plan.fingerprint
    assert (counts["images"], counts["reused_shards"]) == (9 * ROWS, 6)
    assert keys(second)[: len(old)] == keys(first)


def test_a_few_losses_among_new_entries_pass(tmp_path: Path) -> None:
    served, listed = tmp_path / "served", tmp_path / "list.txt"
    save_images(served, range(9))
    (served / "7.png").unlink()
    with serve_folder(served) as base:
        pile = Pile(tmp_path, {"kind": "url_list", "path": str(listed)}, **LOCAL)
        listed.write_text("\n".join(f"{base}/{number}.png" for number in range(6)))
        pile.run()
        listed.write_text("\n".join(f"{base}/{number}.png" for number in range(9)))
        _, counts = pile.run()
        assert (counts["images"], counts["failed_http_404"]) == (8, 1)
        listed.write_text("\n".join(f"{base}/{number}.png" for number in range(3)))  # nothing is new
        _, counts = pile.run()
    assert (counts["images"], counts["reused_shards"]) == (3, 1)


@pytest.mark.parametrize(("num_new", "fails"), [(1, False), (7, False), (8, True)])
def test_one_broken_image_more_does_not_end_a_run(tmp_path: Path, num_new: int, fails: bool) -> None:
    images = tmp_path / "images"
    save_images(images, range(20))
    pile = Pile(tmp_path, {"kind": "folder", "path": str(images)}, min_yield=0.5, rows_per_shard=1000)
    pile.run()
    for number in range(num_new):
        (images / f"new {number}.png").write_bytes(png(number)[:60])
    if fails:
        with pytest.raises(YieldTooLow, match=r"0 of 8 new entries became images .*corrupt_image 8"):
            pile.run()
        return
    _, counts = pile.run()
    assert (counts["images"], counts["failed_corrupt_image"], counts["reused_shards"]) == (20, num_new, 1)


def last_first(make_worker: MakeWorker, items: Items, resources: WorkerResources) -> Iterator[Any]:
    assert isinstance(items, Sequence)
    yield from map_in_process(make_worker, items[::-1], resources)


@pytest.mark.parametrize("probe_shards", [1, 2, 4])
def test_shards_of_repeated_addresses_alone_do_not_count_in_the_early_check(tmp_path: Path, probe_shards: int) -> None:
    served, listed = tmp_path / "served", tmp_path / "list.txt"
    save_images(served, range(ROWS))
    with serve_folder(served) as base:
        listed.write_text("\n".join(f"{base}/{number}.png" for number in (*range(ROWS), *([0, 1, 2] * 3))))
        options = LOCAL | {"drop_duplicate_urls": True, "rows_per_shard": ROWS, "probe_shards": probe_shards}
        source = {"kind": "url_list", "path": str(listed)}
        config = DownloadShardsConfig.model_validate({"source": source, "image_size": 16} | options)
        output = Output(str(tmp_path / "out"), "download_shards", "f0")
        context = make_context(map_shards=last_first)
        counts = run_stage(run, config, inputs={}, output=output, context=context).counts
    assert (counts["images"], counts["failed_duplicate_url"]) == (ROWS, 3 * ROWS)
