"""The address of MLflow: its credentials are used from memory or the environment, and are no part of any record.

A record holds the address without them. Whoever goes on from a record (a resumed run, the dashboard, ``corgi inspect``)
takes them from the experiment, or from MLflow's own variables.
"""

import contextlib
import http.client
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Literal, Self

from pipeline.errors import PipelineError, UsageError
from stages.contract.secrets import MASK, redact, redact_addresses, remember_environment, without_login
from stages.contract.texts import one_line
from stages.storage.private_folders import user_folder
from stages.storage.walking import is_inside

_SQLITE = ("sqlite:///", "sqlite+pysqlite:///")
_REMEDIES = (
    (("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"),
     "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to an account that may "
     "write there"),
    (("ENDPOINT_NOT_FOUND",), "add the path below which the server has MLflow (https://host/mlflow)"),
)  # fmt: skip
_AWAY = {
    "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED",
    "ABORTED", "CANCELLED", "INVALID_STATE",
}  # fmt: skip
_DENIED = {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED", "ENDPOINT_NOT_FOUND"}
RESPONSE_SECONDS = 3.0
_WHOLE = "MLFLOW_TRACKING_URI"
_OWN = "mlflow.db"
ARTIFACTS = "mlartifacts"
"""The folder beside a database in which images lie."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


class TrackingAway(PipelineError):
    """No tracking server answers at the address now; it may do so later."""

    @classmethod
    def by(cls, error: Exception, address: str) -> Self:
        """Return the error for what a call raised."""
        found = one_line(redact(str(error)) or type(error).__name__, 200)
        return cls(f"no MLflow server answers at {redact_addresses(address)} ({found})")


def require_response(address: str, seconds: float = RESPONSE_SECONDS) -> None:
    """Raise TrackingAway within seconds where a server accepts no connection, or sends nothing on it.

    Whatever it sends is a response. Nothing is sent to it but the request for a page that everyone may see.
    """
    if not is_server(address):
        return
    anyone = ssl._create_unverified_context()  # who it is, MLflow's own client checks
    try:
        with contextlib.suppress(urllib.error.HTTPError, ssl.SSLError):
            urllib.request.urlopen(
                f"{without_login(address)[0].rstrip('/')}/health", timeout=seconds, context=anyone
            ).close()
    except http.client.InvalidURL:
        raise
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):
            raise TrackingAway.by(reason if isinstance(reason, Exception) else error, address) from None


def is_server(address: str) -> bool:
    """Return whether it is the address of a tracking server, not of a database or folder."""
    return address.startswith(("http://", "https://"))


def sqlite_address(database: Path) -> str:
    """Return the address of an SQLite file, whatever its name holds: SQLAlchemy decodes it, and ends it at a ``?``.

    Of an address that begins with ``sqlite:`` alone, MLflow would make the folder under its encoded name as well.
    """
    encoded = str(database).replace("%", "%25").replace("?", "%3F")
    return f"{_SQLITE[encoded != str(database)]}{encoded}"


def sqlite_path(address: str) -> Path | None:
    """Return the file of such an address; None: it is of another kind."""
    for prefix in _SQLITE:
        if address.startswith(prefix):
            return Path(urllib.parse.unquote(address.removeprefix(prefix).partition("?")[0]))
    return None


def own_database(workspace: Path | None) -> Path:
    """Return where runs are recorded without a tracking.uri: in the workspace, or in ~/.corgi for a remote store."""
    return (workspace or user_folder()) / _OWN


def default_tracking_uri(workspace: Path | None) -> str:
    """Return SQLite inside the workspace, or below the home folder where the store is remote."""
    database = own_database(workspace)
    database.parent.mkdir(parents=True, exist_ok=True)
    database = database.parent.resolve() / database.name
    database.touch(0o600)  # its owner alone reads what is recorded
    return sqlite_address(database)


def artifact_folder(address: str) -> str | None:
    """Return the folder beside an SQLite file; None lets a server choose its own."""
    database = sqlite_path(address)
    return None if database is None else (database.resolve().parent / ARTIFACTS).as_uri()


def experiment_id(client: Any, name: str, tracking_uri: str) -> str:
    """Return MLflow's id of the experiment of this name, which is made where there is none."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=artifact_folder(tracking_uri)))
    if found.lifecycle_stage != "active":
        raise UsageError(
            f"tracking.experiment: {name!r} was deleted at {tracking_uri}; restore it there "
            f"(mlflow experiments restore -x {found.experiment_id}), or give another name"
        )
    return str(found.experiment_id)


def address_now(address: str, store: Path | None) -> str:
    """Return where a store's own database is, of which a record says where it was before the store was moved or copied.

    Any other address is returned as it is.
    """
    database = sqlite_path(address)
    if store is None or database is None or database.name != _OWN or is_at_hand(address, store):
        return address
    return sqlite_address(store / _OWN) if (store / _OWN).is_file() else address


def is_at_hand(address: str, store: Path | None) -> bool:
    """Return whether an address from a record is of this machine, or the one that the environment names.

    A record may be another's: what it names gets no request, and none of the user's credentials, unless the user named
    it too. ``store`` is the folder of the record's store, in which its own database lies; none: it is remote.
    """
    whole = os.environ.get(_WHOLE, "")
    if whole and recorded_address(whole) == recorded_address(address):
        return True
    if is_server(address):
        return (urllib.parse.urlsplit(address).hostname or "") in _LOOPBACK
    database = sqlite_path(address)
    return database is not None and is_inside(database, store or user_folder())


def recorded_address(address: str) -> str:
    """Return what a record holds of the address."""
    return without_login(address)[0] if is_server(address) else redact_addresses(address)


def usable_address(address: str) -> str:
    """Return the address that MLflow is to use; a server's user and password go to MLflow by its variables.

    An address from a record is completed from the environment; UsageError: what it lacks is not there.
    """
    whole = os.environ.get(_WHOLE, "")
    if whole and recorded_address(whole) == recorded_address(address):
        address = whole
    if is_server(address):
        address, user, password = without_login(address)
        if user or password:
            os.environ.update({_USER: user, _PASSWORD: password})
            remember_environment()
    elif address == redact_addresses(address) and MASK in address:
        raise UsageError(
            f"tracking.uri: the run is recorded at {address}, whose user and password are not kept with it: set "
            f"{_WHOLE} to the whole address"
        )
    return address


def is_outage(error: Exception) -> bool:
    """Return whether a call got no reply of a server that works; a page that is none of MLflow's is a reply."""
    code = getattr(error, "error_code", "")
    return isinstance(error.__cause__ or error.__context__, OSError) or (code in _AWAY and code != "INTERNAL_ERROR")


def reason_of(error: Exception) -> Literal["away", "denied", "refused"]:
    """Return whether a call of MLflow's client may work later, with other credentials, or never."""
    if (code := getattr(error, "error_code", None)) is not None:
        return "away" if code in _AWAY else "denied" if code in _DENIED else "refused"
    return "away" if isinstance(error, TrackingAway | OSError) else "refused"


def explain_refusal(error: Exception, address: str) -> str:
    """Return what an answer of a tracking server means, in a sentence that quotes little of it."""
    code = str(getattr(error, "error_code", ""))
    remedy = next((words for names, words in _REMEDIES if code in names), "check the address")
    found = one_line(redact(str(error)) or type(error).__name__, 200)
    return (
        f"tracking.uri: MLflow at {redact_addresses(address)} refused ({code or type(error).__name__}: {found}); "
        f"{remedy}, or leave tracking.uri out to use SQLite in the store"
    )
