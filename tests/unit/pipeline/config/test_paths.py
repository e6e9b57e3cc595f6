"""Whether the files that a config names are there."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.loading import load_config
from pipeline.config.paths import require_files
from pipeline.errors import UsageError
from pipeline.options import STORE_VARIABLE

SMOKE = Path("configs/smoke.yaml").resolve()


def test_all_that_is_missing_is_named_with_its_key_once(tmp_path: Path) -> None:
    config = {
        "extends": str(SMOKE),
        "clip": {"models": [{"kind": "folder", "path": "no_clip"}]},
        "download_shards": {"source": {"kind": "folder", "path": "no_images"}, "min_yield": 0.5},
        "generate": {"prompts": {"kind": "file", "path": "no_prompts.txt"}},
        "evaluate": {"real": "no_real"},
        "encode_latents": {"kind": "stable_diffusion", "path": "no_checkpoint", "resolution": 64},
    }
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UsageError) as raised:
        require_files(load_config(tmp_path / "my.yaml"), "my.yaml")
    found = str(raised.value)
    for words in (
        "clip.models.0.path: there is no", "download_shards.source.path: there is no", "evaluate.real: there is no",
        "generate.prompts.path: there is no", "encode_latents.path: there is no",
    ):  # fmt: skip
        assert words in found
    assert found.count("no_clip") == 1  # though every stage that embeds has it


def test_remote_addresses_and_what_is_there_are_left_alone(tmp_path: Path) -> None:
    config = {"extends": str(SMOKE), "download_shards": {"source": {"kind": "folder", "path": "s3://nowhere/at/all"}}}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    require_files(load_config(tmp_path / "my.yaml"), "my.yaml")
    require_files(load_config(SMOKE), "smoke.yaml")


def test_a_store_is_that_of_the_config_else_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_config(SMOKE).store == "workspace"
    monkeypatch.setenv(STORE_VARIABLE, "s3://bucket/corgi")
    assert load_config(SMOKE).store == "s3://bucket/corgi"
    assert load_config(SMOKE, ["store=here"]).store == "here"


def test_validate_and_plan_report_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))
    (tmp_path / "list.csv").write_text("address,words\nhttp://127.0.0.1:9/a.png,a star\n")
    source = {"kind": "url_list", "path": "list.csv", "url_column": "url", "caption_column": "words"}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({"extends": str(SMOKE), "download_shards": {"source": source}}))
    found = CliRunner().invoke(app, ["plan", str(tmp_path / "my.yaml")])
    assert isinstance(found.exception, UsageError)
    assert "download_shards" in str(found.exception)
    assert "address" in str(found.exception)  # the columns that there are
    (tmp_path / "list.csv").unlink()
    found = CliRunner().invoke(app, ["validate", str(tmp_path / "my.yaml")])
    assert isinstance(found.exception, UsageError)
    assert "download_shards.source.path: there is no" in str(found.exception)
