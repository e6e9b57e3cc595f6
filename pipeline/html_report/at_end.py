"""The report of a run at its end, for MLflow: made within a bound of time, and never a reason for a run to fail."""

import queue
import threading
from collections.abc import Callable
from typing import Final

from cluster.signals import signals_held_back
from pipeline.html_report.page import report_page
from pipeline.inspection.inspect import target_of
from pipeline.record import RunRecord
from pipeline.store import Store
from stages.contract.secrets import redact
from stages.contract.texts import one_line

REPORT_SECONDS: Final = 60.0
REPORTED_SHARDS: Final = 4
"""Of each artifact that are read, as the end of the run waits for them; `corgi report` reads more."""
LARGEST_REPORT: Final = 32 << 20
"""Bytes of a page that is sent."""


def report_at_end(
    record: RunRecord, store: Store, report: Callable[[str], None], seconds: float = REPORT_SECONDS
) -> str | None:
    """Return the run's page; None, with a line of why, where it cannot be made, takes too long or is too large."""
    found: queue.SimpleQueue[str | Exception] = queue.SimpleQueue()

    def make() -> None:
        try:
            found.put(redact(report_page(target_of(record, store), max_shards=REPORTED_SHARDS)))
        except Exception as error:  # noqa: BLE001  whatever a file system, or damaged data, raises
            found.put(error)

    with signals_held_back():  # from the thread, so that they reach this one
        threading.Thread(target=make, name="corgi-report", daemon=True).start()
    try:
        page = found.get(timeout=seconds)
    except queue.Empty:
        page = TimeoutError(f"it was not ready within {seconds:g} s")
    if isinstance(page, str) and len(page) > LARGEST_REPORT:
        page = ValueError(f"it has {len(page):,} characters, and at most {LARGEST_REPORT:,} are sent")
    if isinstance(page, str):
        return page
    why = one_line(redact(str(page)) or type(page).__name__, 200)
    report(f"tracking: warning: the run's report is not logged ({why}); `corgi report {record.run}` makes it")
    return None
