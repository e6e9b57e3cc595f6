"""The address of MLflow: its credentials are used from memory or the environment, and are no part of any record.

A record holds the address without them. Whoever goes on from a record (a resumed run, the dashboard, ``corgi inspect``)
takes them from the experiment, or from MLflow's own variables.
"""

import os

from pipeline.errors import UsageError
from stages.contract.secrets import MASK, redact_addresses, remember_environment, without_login

_WHOLE = "MLFLOW_TRACKING_URI"
_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


def is_server(address: str) -> bool:
    """Return whether it is the address of a tracking server, not of a database or folder."""
    return address.startswith(("http://", "https://"))


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
