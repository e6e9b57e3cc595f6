"""A configuration that was recorded holds masks in place of credentials: the environment's hold."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.loading import load_config, load_resolved
from pipeline.config.schema import RunConfig

SMOKE = Path(__file__).parents[4] / "configs/smoke.yaml"
SECRET = {"key": "AKIA", "secret": "sesame4711", "client_kwargs": {"aws_session_token": "sesame4711"}}


def recorded(**sections: Any) -> RunConfig:
    words = [f"{name}={json.dumps(section)}" for name, section in sections.items()]
    shown = json.loads(json.dumps(load_config(SMOKE, words).shown()))
    assert "sesame4711" not in json.dumps({name: shown[name] for name in sections})
    return load_resolved(shown, [], "run smoke-1")


def test_masked_options_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FSSPEC_S3", raising=False)
    options = {"s3": {**SECRET, "endpoint_url": "http://store:9000"}, "sftp": {"password": "sesame4711"}}
    variables = recorded(storage={"options": options, "patience": 3}).storage.environment()
    assert {name: json.loads(value) for name, value in variables.items()} == {
        "FSSPEC_S3": {"endpoint_url": "http://store:9000"}
    }


def test_a_variable_of_fsspec_holds_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those credentials are for the endpoint beside them, not for one that a record names."""
    monkeypatch.setenv("FSSPEC_S3", '{"key": "mine", "secret": "sesame4711 too"}')
    options = {"s3": {**SECRET, "endpoint_url": "http://store:9000"}, "gs": {"project": "p", "token": "sesame4711"}}
    variables = recorded(storage={"options": options}).storage.environment()
    assert variables == {"FSSPEC_GS": '{"project": "p"}'}


def test_options_without_secrets_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FSSPEC_S3", raising=False)
    options = {"s3": {"endpoint_url": "http://store:9000", "config_kwargs": {"retries": {}}, "anon": True}}
    assert recorded(storage={"options": options}).storage.options == options


def test_masked_addresses_are_left_out_and_logins_taken_from_the_environment() -> None:
    config = recorded(
        notify={"url": "https://chat/hooks/sesame4711-one"}, tracking={"uri": "http://me:sesame4711@host:5000"}
    )
    assert (config.notify.url, config.tracking.uri) == (None, "http://host:5000")
    plain = recorded(tracking={"uri": "http://host:5000/mlflow"})
    assert plain.tracking.uri == "http://host:5000/mlflow"
