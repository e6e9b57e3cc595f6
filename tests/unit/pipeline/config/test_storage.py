"""The section of storage: what it hands to the processes of a run, and what it refuses to keep."""

import json

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
    ("options", "key"),
    [
        ({"s3": {"key": "AKIA", "secret": "hidden"}}, "s3.key"),
        ({"s3": {"client_kwargs": {"aws_secret_access_key": "hidden"}}}, "s3.client_kwargs.aws_secret_access_key"),
        ({"abfs": {"account_key": "hidden"}}, "abfs.account_key"),
        ({"sftp": {"password": "hidden"}}, "sftp.password"),
        ({"s3": {"endpoint_url": "http://me:hidden@store:9000"}}, "s3.endpoint_url"),
    ],
)
def test_credentials_are_refused_without_being_reported(options, key):
    with pytest.raises(ValidationError, match=rf"{key}: credentials are not allowed here.*AWS_ACCESS_KEY_ID") as caught:
        StorageConfig(options=options)
    assert "hidden" not in str(caught.value.errors()[0]["msg"])
