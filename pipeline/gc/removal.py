"""Delete garbage: never what another driver makes, or what a run that has begun since needs."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

from pipeline.errors import UsageError
from pipeline.gc.garbage import Garbage, Item, identities_of, name_of, needs_of, read_records
from pipeline.leases import LeaseTimes
from pipeline.store import Store
from stages.storage.artifact import COMPLETE
from stages.storage.filesystems import open_address

_log = logging.getLogger(__name__)


def remove(store: Store, garbage: Garbage) -> Iterator[tuple[Item, str]]:
    """Delete item by item, runs first: nothing names an artifact that is gone; yield each with why it was left, or "".

    The mark of a whole artifact goes first, so that one whose deletion was cut off is made anew.
    """
    order = {"run": 0, "artifact": 1, "model": 2}
    for item in sorted(garbage.items, key=lambda one: order[one.what]):
        try:
            with _held(store, item):
                if _is_needed(store, item):
                    yield item, "a run needs it that has begun since"
                    continue
                _delete(item)
        except UsageError as error:
            yield item, str(error)
        except OSError as error:
            yield item, f"cannot be deleted ({error.strerror or error})"
        else:
            yield item, ""


def _is_needed(store: Store, item: Item) -> bool:
    """Return whether a run needs an artifact or a model, by the records as they are now."""
    if item.what == "run":
        return False
    records = read_records(store)
    if item.what == "model":
        return item.folder.fingerprint in identities_of(records, store)
    return name_of(item.folder) in needs_of(records)


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
