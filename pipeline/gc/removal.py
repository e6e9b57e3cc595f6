"""Delete garbage: never what another driver makes, or what a run that has begun since needs."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

from pipeline.errors import UsageError
from pipeline.gc.garbage import Garbage, Item, name_of, read_records
from pipeline.gc.needs import begun_with, identities_of, needs_of
from pipeline.leases import LeaseTimes
from pipeline.store import Store
from stages.storage.artifact import COMPLETE
from stages.storage.filesystems import open_address

_log = logging.getLogger(__name__)


def remove(store: Store, garbage: Garbage) -> Iterator[tuple[Item, str]]:
    """Delete item by item, runs first: nothing names an artifact that is gone; yield each with why it was left, or "".

    A run that begins with another's weights goes before that one. The mark of a whole artifact goes first, so that one
    whose deletion was cut off is made anew.
    """
    for item in _in_order(garbage):
        try:
            with _held(store, item):
                if why := _why_kept(store, item, garbage):
                    yield item, why
                    continue
                _delete(item)
        except UsageError as error:
            yield item, str(error)
        except OSError as error:
            yield item, f"cannot be deleted ({error.strerror or error})"
        else:
            yield item, ""


def _in_order(garbage: Garbage) -> list[Item]:
    order = {"run": 0, "artifact": 1, "model": 2}
    runs = {item.record.run: item.record for item in garbage.items if item.record is not None}
    depth = {run: len(begun_with([record], runs)) for run, record in runs.items()}
    return sorted(garbage.items, key=lambda one: (order[one.what], -depth.get(one.folder.fingerprint, 0)))


def _why_kept(store: Store, item: Item, garbage: Garbage) -> str:
    """Return why an item is not garbage by the records as they are now; "": it is."""
    run = item.folder.fingerprint
    if item.what == "run" and store.read_run(run) not in (item.record, None):
        return "it was started again since"
    records = read_records(store)
    if item.what == "run":
        begun = begun_with([one for one in records if one.run != run], {one.run: one for one in records})
        return f"run {begun[run][0].by} begins with its weights" if run in begun else ""
    bare = [record for record in records if garbage.bare.get(record.run) == record]
    whole = [record for record in records if record not in bare]
    if item.what == "model":
        is_needed = item.folder.fingerprint in identities_of(whole, store)
    else:
        is_needed = name_of(item.folder) in needs_of(whole, store, bare)
    return "a run needs it that has begun since" if is_needed else ""


def _held(store: Store, item: Item) -> AbstractContextManager[object]:
    """Keep drivers from an item meanwhile; UsageError: one is at it."""
    if item.what == "artifact":
        return store.lock([item.folder])
    if item.what == "run":
        return store.leasing(item.folder.fingerprint, [], LeaseTimes(wait=0), _log.warning)
    return nullcontext()


def _delete(item: Item) -> None:
    fs, root = open_address(item.folder.uri)
    if item.what == "artifact" and fs.exists(f"{root}/{COMPLETE}"):
        fs.rm_file(f"{root}/{COMPLETE}")
    if fs.exists(root):
        fs.rm(root, recursive=True)
