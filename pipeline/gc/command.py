"""The options of ``corgi gc``; heavy imports are inside, so that ``--help`` answers at once."""

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.options import StoreOption
from pipeline.terminal import echo

if TYPE_CHECKING:
    from pipeline.console import PlainTable
    from pipeline.gc.garbage import Garbage


def gc(
    *,
    forget: Annotated[list[str] | None, typer.Option("--forget", metavar="RUN", help="a run; may be repeated")] = None,
    keep_last: Annotated[int | None, typer.Option("--keep-last", min=0, help="forget all but so many runs")] = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", metavar="DAYS", min=0, max=100_000, help="forget older runs")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="delete what is shown; else nothing is")] = False,
    store: StoreOption = "workspace",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")] = False,
) -> None:
    """Show, and with --delete delete, what a store holds that no kept run needs.

    All runs are kept unless --forget, --keep-last or --older-than says otherwise, and those that are not over always.
    The exit code is 1 where --delete left something that it was to delete.
    """
    from pipeline.console import Terminal
    from pipeline.gc.garbage import Choice, find_garbage
    from pipeline.gc.removal import remove
    from pipeline.store import Store

    found = Store(store)
    found.check_format()
    age = None if older_than is None else timedelta(days=older_than)
    garbage = find_garbage(found, Choice(runs=tuple(forget or ()), keep_last=keep_last, older_than=age))
    if not as_json:
        Terminal().print(_table(garbage))
        for run, why in garbage.reasons.items():
            echo(f"kept: run {run}: {why}")
    left = [(item, why) for item, why in (remove(found, garbage) if delete else ()) if why]
    deleted = garbage.size - sum(item.size for item, _ in left) if delete else 0
    if as_json:
        echo(json.dumps(_document(garbage, deleted, {item.folder.uri: why for item, why in left}), indent=1))
    else:
        for item, why in left:
            echo(f"left: {item.what} {item.folder.uri}: {why}", err=True)
        if delete:
            echo(f"deleted: {deleted / 1e6:,.1f} MB")
        elif garbage.items:
            echo(f"nothing was deleted; --delete frees {garbage.size / 1e6:,.1f} MB")
    if left:
        raise typer.Exit(1)


def _table(garbage: "Garbage") -> "PlainTable":
    from pipeline.console import PlainTable

    table = PlainTable(title=f"what none of the {garbage.kept_runs} kept runs needs")
    for heading in ("what", "folder"):
        table.heading(heading)
    table.heading("MB", justify="right")
    table.heading("why")
    for item in garbage.items:
        folder = f"{item.folder.stage}/{item.folder.fingerprint}"
        table.row(item.what, folder, f"{item.size / 1e6:,.1f}", item.why)
    return table


def _document(garbage: "Garbage", deleted: int, left: dict[str, str]) -> dict[str, Any]:
    items = [{"what": one.what, "uri": one.folder.uri, "bytes": one.size, "why": one.why} for one in garbage.items]
    return {"kept_runs": garbage.kept_runs, "forgotten_runs": list(garbage.forgotten),
            "begun_with": dict(garbage.reasons), "garbage": items, "deleted_bytes": deleted, "left": left}  # fmt: skip
