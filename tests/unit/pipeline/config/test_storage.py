"""The section of storage: what it hands to the processes of a run, and what it refuses to keep."""

import json
from datetime import date
from math import inf, nan
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config.storage import StorageConfig


def test_options_travel_as_fsspec_reads_them():
    options = {"s3": {"endpoint_url": "http://store:9000", "config_kwargs": {"retries": {"max_attempts": 9}}}}
    variables = StorageConfig(options=options, cache="/scratch/copies", cache_gigabytes=2.5).environment()
    assert json.loads(variables.pop("FSSPEC_S3")) == options["s3"]
    assert variables == {"CORGI_CACHE": "/scratch/copies", "CORGI_CACHE_GIGABYTES": "2.5"}
    assert StorageConfig().environment() == {}


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"s3": {"key": "AKIA", "secret": "hidden"}}, {"s3": {"key": "…", "secret": "…"}}),
        ({"s3": {"client_kwargs": {"Aws-Secret": "hidden"}}}, {"s3": {"client_kwargs": {"Aws-Secret": "…"}}}),
        ({"http": {"headers": {"X-Any": ["hidden"]}}}, {"http": {"headers": {"X-Any": "…"}}}),
        ({"sftp": {"pin": 1234, "port": 22}}, {"sftp": {"pin": "…", "port": 22}}),
        ({"s3": {"endpoint_url": "http://me:hidden@store:9000"}}, {"s3": {"endpoint_url": "http://…@store:9000"}}),
        ({"s3": {"config_kwargs": {"s3": {"addressing_style": "path"}}}}, None),
    ],
)
def test_what_may_be_secret_works_and_is_not_shown(options, shown):
    section = StorageConfig(options=options)
    assert json.loads(next(iter(section.environment().values()))) == next(iter(options.values()))
    assert section.shown()["options"] == (options if shown is None else shown)
    assert "hidden" not in repr(section)


@pytest.mark.parametrize(
    "value", [date(2026, 1, 1), "\ud800", b"hidden", {"hidden"}, inf, [1, {"a": nan}], {"a": {1: 2}}, {inf: 1}]
)
def test_what_a_variable_cannot_carry_is_refused_by_its_name_alone(value: Any) -> None:
    with pytest.raises(ValidationError, match=r"s3\.expiry: expected a text, a finite number") as caught:
        StorageConfig(options={"s3": {"key": "hidden", "expiry": value}})
    assert "hidden" not in str(caught.value.errors(include_input=False))


@pytest.mark.parametrize("value", ["x", 2, 0.5, True, None, ["x", [1, None]], {"a": {"b": []}}])
def test_what_json_carries_is_kept_as_it_is(value: Any) -> None:
    assert json.loads(StorageConfig(options={"s3": {"a": value}}).environment()["FSSPEC_S3"]) == {"a": value}


@pytest.mark.parametrize("protocol", ["arrow_hdfs", "S3", "", "a=b", "a\0b", "_s3"])
def test_a_protocol_that_no_variable_can_name_is_refused(protocol: str) -> None:
    with pytest.raises(ValidationError, match="expected the protocol of a file system"):
        StorageConfig(options={protocol: {"anon": True}})


@pytest.mark.parametrize("path", ["", "a\0b", "\ud800", "~nobody-at-all/x"])
def test_a_cache_that_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="found "):
        StorageConfig(cache=path)
