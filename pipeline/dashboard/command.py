"""``corgi dashboard``."""

from typing import Annotated

import typer

from pipeline.options import StoreOption
from pipeline.terminal import echo


def dashboard(
    *,
    store: StoreOption = "workspace",
    host: Annotated[str, typer.Option("--host", help="address to bind to")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="port to bind to")] = 5000,
) -> None:
    """Open the dashboard of a store's runs, on this machine only: tables, live graphs, images, data, ratings."""
    from pipeline.dashboard.server import Shown, open_dashboard
    from pipeline.heartbeat import life_of
    from pipeline.store import Store
    from pipeline.tracking_address import address_now

    found = Store(store)
    found.check_format()
    record = next(iter(found.runs()), None)
    if record is not None and (life := life_of(record, found)).words:
        echo(f"run {record.run}: {life.shown}: {life.words}", err=True)
    tracked, known = ("", ""), None if record is None else record.mlflow
    if known is not None and known.experiment_id:
        tracked = address_now(known.tracking_uri, found.local_root), known.experiment_id
    open_dashboard(Shown(found.uri, *tracked), host=host, port=port)
