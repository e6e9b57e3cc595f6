"""What is refused before anything is sent to a cluster."""

from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.options import STORE_VARIABLE
from pipeline.submission import submit_experiment

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = folder / "x.yaml"
    path.write_text("download_shards: {source: {kind: scenes, num_images: 4}}\n")
    return path


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("storage.options.s3.secret=hidden-word", "storage.options.s3.secret"),
        ("storage.options={s3: {anon: false, foo: hidden-word}}", "storage.options"),
        ("tracking.uri=http://me:hidden-word@host", "tracking.uri"),
        ("store=ftp://me:hidden-word@host/x", "store"),
    ],
)
def test_overrides_that_hold_a_secret_are_refused(config: Path, override: str, key: str) -> None:
    with pytest.raises(UsageError, match=rf"^{key}: holds a secret, and overrides are part of the job's") as caught:
        submit_experiment(config, [override], NOBODY, lambda text: None)
    assert "hidden-word" not in str(caught.value)


def test_a_config_that_extends_one_outside_the_folder_is_refused(config: Path) -> None:
    (config.parent.parent / "base.yaml").write_text(config.read_text())
    config.write_text("extends: ../base.yaml\n")
    with pytest.raises(UsageError, match=r"base\.yaml: lies outside the current folder"):
        submit_experiment(config, [], NOBODY, lambda text: None)


def test_a_job_gets_the_store_of_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORE_VARIABLE, "s3://somebody:secret@bucket/corgi")  # refused, as it would be an override
    with pytest.raises(UsageError, match="store: holds a secret"):
        submit_experiment(config, [], NOBODY, lambda text: None)
