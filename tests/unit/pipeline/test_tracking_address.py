"""The address of MLflow: its credentials are used, and no record holds them."""

import os
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.tracking_address import default_tracking_uri, is_at_hand, recorded_address, sqlite_address, usable_address

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
DATABASE = "postgresql://me:hidden-word@db/mlflow"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that they are put back afterwards
        monkeypatch.delenv(name)


def test_a_server_gets_user_and_password_by_mlflow_s_variables() -> None:
    address = "https://me%40x:p%2Fw@host:5000/prefix"
    assert recorded_address(address) == usable_address(address) == "https://host:5000/prefix"
    assert [os.environ[name] for name in VARIABLES[1:]] == ["me@x", "p/w"]
    assert usable_address("http://host:5000") == "http://host:5000"


def test_a_database_is_used_whole_and_recorded_without_its_password() -> None:
    assert usable_address(DATABASE) == DATABASE
    assert recorded_address(DATABASE) == "postgresql://…@db/mlflow"
    assert recorded_address("sqlite:////a/mlflow.db") == usable_address("sqlite:////a/mlflow.db")


def test_a_recorded_address_is_completed_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"recorded at postgresql://…@db/mlflow.* set MLFLOW_TRACKING_URI to"):
        usable_address("postgresql://…@db/mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:hidden-word@other/mlflow")
    with pytest.raises(UsageError, match="not kept with it"):
        usable_address("postgresql://…@db/mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DATABASE)
    assert usable_address("postgresql://…@db/mlflow") == DATABASE


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://127.0.0.1:5000", True),
        ("http://localhost:5000/mlflow", True),
        ("http://[::1]:5000", True),
        ("https://tracking.example.com", False),
        ("https://127.0.0.1.example.com", False),
        ("http://127.0.0.1@example.com", False),
        ("postgresql://example.com/mlflow", False),
        ("databricks", False),
        ("file:///etc", False),
    ],
)
def test_only_what_is_of_this_machine_is_contacted_for_a_record(tmp_path: Path, address: str, expected: bool) -> None:
    assert is_at_hand(address, tmp_path) is expected


def test_a_database_of_the_record_is_that_of_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    store = tmp_path / "store"
    assert is_at_hand(sqlite_address(store / "mlflow.db"), store)
    assert not is_at_hand(sqlite_address(tmp_path / "mlflow.db"), store)
    assert not is_at_hand(sqlite_address(store / "mlflow.db"), None)
    assert is_at_hand(default_tracking_uri(None), None)


def test_a_server_that_the_environment_names_may_be_contacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:secret@tracking.example.com")
    assert is_at_hand("https://tracking.example.com", None)
    assert not is_at_hand("https://tracking.example.com.evil", None)
