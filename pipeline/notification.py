"""Post how a run ended to a web address: a small JSON document, once, within seconds, and whatever comes of it."""

import base64
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

from pipeline.record import RunRecord
from stages.contract.secrets import redact, redact_addresses, redact_path, redact_tree, without_login
from stages.contract.texts import one_line

LIMIT_SECONDS = 5.0
_LONGEST_SENTENCE = 1000


def end_document(record: RunRecord, store: str, error: BaseException | None = None) -> dict[str, Any]:
    """Return what is posted; ``error`` ended the run outside any stage. ``text`` is what chat services show."""
    failed = next((stage for stage in record.stages if stage.state == "failed"), None)
    cause = failed.error if failed is not None else str(error) if isinstance(error, Exception) else ""
    sentence = one_line(redact(cause), _LONGEST_SENTENCE)
    where = f" at {failed.name}" if failed is not None else ""
    text = f"corgi: run {record.run}: {record.status}{where}{': ' if sentence else ''}{sentence}"
    document: dict[str, Any] = redact_tree(
        {
            "run": record.run,
            "name": record.name,
            "status": record.status,
            "stage": failed.name if failed is not None else None,
            "error": sentence or None,
            "seconds": record.seconds,
            "started": record.started,
            "finished": record.finished,
            "store": redact_addresses(store),
            "text": text,
        }
    )
    return document


def notify(url: str, document: dict[str, Any], report: Callable[[str], None], seconds: float = LIMIT_SECONDS) -> None:
    """Post the document; what goes wrong is a warning, and changes nothing of the run."""
    outcome: list[str] = []

    def post() -> None:
        try:
            _post(url, document, seconds)
            outcome.append("")
        except urllib.error.HTTPError as error:
            error.close()
            outcome.append(f"status {error.code}")
        except (OSError, HTTPException, ValueError) as error:
            outcome.append(one_line(redact(str(getattr(error, "reason", error))), 200) or type(error).__name__)

    thread = threading.Thread(target=post, daemon=True)  # a server that sends a byte now and then holds nobody up
    thread.start()
    thread.join(seconds + 1)
    found = outcome[0] if outcome else f"no reply within {seconds:g} s"
    if found:
        report(
            f"notify: warning: {redact_path(url)} did not take the end of the run ({found}): check notify.url; the run "
            "itself ended as its record has it"
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would repeat the request as a GET, or take the document elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def _post(url: str, document: dict[str, Any], seconds: float) -> None:
    address, user, password = without_login(url)
    headers = {"Content-Type": "application/json", "User-Agent": "corgi-pipeline"}
    if user or password:
        headers["Authorization"] = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    request = urllib.request.Request(address, json.dumps(document).encode(), headers, method="POST")
    urllib.request.build_opener(_NoRedirect).open(request, timeout=seconds).close()
