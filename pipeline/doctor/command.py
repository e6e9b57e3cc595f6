"""Run all checks beside one another, each within a few seconds, and show what they found."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from cluster.session import existing_address
from pipeline.config.loading import load_config
from pipeline.doctor import disk, gpu, limits, network, ray_cluster, store, versions
from pipeline.doctor.finding import Finding, Subject, error
from stages.contract.secrets import redact

SECONDS = 8.0  # for what goes over a network; importing torch takes as long as it takes
_SECONDS_HERE = 120.0
CHECKS: dict[str, Callable[[Subject], Iterable[Finding]]] = {
    "versions": versions.check,
    "ray": ray_cluster.check,
    "gpu": gpu.check,
    "network": network.check,
    "store": store.check,
    "disk": disk.check,
    "limits": limits.check,
}
_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def examine(config: Path | None, overrides: Sequence[str]) -> list[Finding]:
    """Return what all checks found, in their order."""
    loaded = load_config(config, overrides) if config is not None else None
    subject = Subject(loaded, existing_address(loaded.cluster.address if loaded is not None else None))
    return run_checks(CHECKS, subject, {"ray": SECONDS, "network": SECONDS, "store": SECONDS, "disk": SECONDS})


def run_checks(
    checks: Mapping[str, Callable[[Subject], Iterable[Finding]]], subject: Subject, seconds_of: Mapping[str, float]
) -> list[Finding]:
    """Run checks in threads of their own; one that fails or does not return in time is an error of its own."""
    results: dict[str, list[Finding]] = {name: [] for name in checks}

    def run(name: str) -> None:
        try:
            for finding in checks[name](subject):
                results[name].append(finding)
        except Exception as cause:  # noqa: BLE001  the others still report
            found = f"the check itself failed ({type(cause).__name__}: {cause})"
            results[name].append(error(name, found, "see what it names"))

    threads = {name: threading.Thread(target=run, args=(name,), daemon=True) for name in checks}
    started = time.monotonic()
    for thread in threads.values():
        thread.start()
    for name, thread in threads.items():
        seconds = seconds_of.get(name, _SECONDS_HERE)
        thread.join(max(0.0, started + seconds - time.monotonic()))
        if thread.is_alive():
            found = f"no result after {seconds:.0f} s"
            results[name].append(error(name, found, "check the network, or what the address stands for"))
    return [finding for name in checks for finding in list(results[name])]


def worst(findings: Iterable[Finding]) -> str:
    """Return "error", "warning" or "ok"."""
    found = {finding.status for finding in findings}
    return next(status for status in ("error", "warning", "ok") if status in found or status == "ok")


def doctor_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as one JSON document."""
    return {"status": worst(findings), "checks": [finding.document() for finding in findings]}


def doctor_table(findings: Iterable[Finding]) -> Table:
    """Return one line per finding, with what to do below what was found."""
    table = Table(box=None, pad_edge=False)
    for title in ("check", "", "found, and what to do"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        lines = redact(finding.found if not finding.remedy else f"{finding.found}\n→ {finding.remedy}")
        table.add_row(finding.check, Text(finding.status, style=_STYLES[finding.status]), Text(lines))
    return table
