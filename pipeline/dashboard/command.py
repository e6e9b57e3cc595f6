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
    """Open the MLflow dashboard of a store's runs, on this machine only."""
    from pipeline.dashboard.server import open_dashboard
    from pipeline.errors import UsageError
    from pipeline.heartbeat import life_of
    from pipeline.store import Store

    found = Store(store)
    found.check_format()
    record = found.find_run(None)
    if record.mlflow is None or not record.mlflow.experiment_id:
        raise UsageError(f"run {record.run}: is not recorded with MLflow; run it again, or `corgi track {record.run}`")
    if (life := life_of(record, found)).words:
        echo(f"run {record.run}: {life.shown}, though MLflow shows it as running: {life.words}", err=True)
    open_dashboard(record.mlflow.tracking_uri, record.mlflow.experiment_id, host=host, port=port)
