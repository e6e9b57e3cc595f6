"""The options of file systems that processes of a run have: the environment's own, and those of the experiment."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.config.storage import StorageConfig
from stages.contract.errors import InputFault
from stages.storage.filesystems import open_address, root_address, use_environment

NAME = "FSSPEC_CORGITEST"  # of a file system that no other test configures
OWN = {"key": "k3y-of-our-own", "config_kwargs": {"connect_timeout": 5, "retries": {"max_attempts": 3}}, "anon": False}


def enter(**options: Any) -> None:
    use_environment(StorageConfig(options={"corgitest": options}).worker_environment())


def seen_by_a_child() -> Any:
    code = "import json, fsspec; print(json.dumps(fsspec.config.conf['corgitest']))"
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORGI_PATIENCE", "10")
    monkeypatch.setenv(NAME, json.dumps(OWN))
    monkeypatch.setitem(fsspec.config.conf, "corgitest", {})


def test_options_of_an_experiment_are_added_to_the_environment_s_own_for_this_process_and_those_it_starts() -> None:
    config_kwargs = {"connect_timeout": 20, "retries": {"max_attempts": 3}}
    for _ in range(2):  # a worker of several tasks
        enter(endpoint_url="http://store:9000", config_kwargs={"connect_timeout": 20})
        expected = {**OWN, "endpoint_url": "http://store:9000", "config_kwargs": config_kwargs}
        assert seen_by_a_child() == fsspec.config.conf["corgitest"] == expected


def test_options_of_an_earlier_experiment_are_not_added_to_those_of_a_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enter(endpoint_url="http://one:9000", region="north")
    enter(endpoint_url="http://two:9000")
    assert json.loads(os.environ[NAME]) == {**OWN, "endpoint_url": "http://two:9000"}
    monkeypatch.setenv(NAME, '{"key": "k3y-of-a-second"}')  # by the user, in between
    enter(anon=True)
    assert json.loads(os.environ[NAME]) == {"key": "k3y-of-a-second", "anon": True}


@pytest.mark.parametrize("own", ["", "{", "[1]", "null"])
def test_a_variable_that_holds_no_options_is_replaced(monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    monkeypatch.setenv(NAME, own)
    enter(anon=True)
    assert os.environ[NAME] == '{"anon": true}'


def test_options_of_a_file_system_that_the_environment_does_not_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "FSSPEC_CORGIFIRST"
    monkeypatch.setenv(name, "")  # so that it is as before when the test ends
    monkeypatch.delenv(name)
    use_environment(StorageConfig(options={"corgifirst": {"anon": True}}).worker_environment())
    assert os.environ[name] == '{"anon": true}'


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "expected a folder, or an address"),
        ("s3://", "expected a bucket, host or path behind s3://: is a variable empty"),
        ("s3:///corgi", "expected a bucket, host or path behind s3://"),
        ("simplecache::gs://", "expected a bucket, host or path behind gs://"),
        ("http:///x", "expected a bucket, host or path behind http://"),
        ("://x", "expected the address of a file system"),
        ("a::b://c", "expected the address of a file system"),
        ("file://host/x", "expected a whole path of this machine, such as file:///data/corgi"),
        ("file://x", "expected a whole path of this machine"),
        ("s3://user:hidden@/x::", "expected the address of a file system"),
    ],
)
def test_an_address_of_nothing_is_no_folder_of_this_machine(
    address: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for read in (root_address, open_address) if address else (root_address,):
        with pytest.raises(InputFault) as caught:
            read(address)
        assert words in str(caught.value)
        assert "hidden" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address",
    [
        "memory://one",
        "file:///data/corgi",
        "s3://bucket",
        "simplecache::s3://bucket/x",
        "zip://a.txt::s3://bucket/x.zip",
        "zip://::/data/x.zip",
        "hdfs:///data/corgi",
    ],
)
def test_a_whole_address_is_kept(address: str) -> None:
    assert root_address(address) == address
