"""What a user can get wrong: exit code 2, one clear paragraph, no traceback, and nothing started."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import SMOKE, corgi


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fit_gaussians.num_gausians=3"], "did you mean 'num_gaussians'"),
        (["train_decoder.training.num_steps=lots"], "train_decoder.training.num_steps: found 'lots'"),
        (["captions.fraction=0"], "set captions.fraction above 0"),
        (["clip.models.0.path=/nowhere"], "no file or folder at /nowhere"),
        (["cluster.address=127.0.0.1:1"], "no Ray cluster responds at '127.0.0.1:1'"),
        (["train_decoder.resources.num_workers=512"], "512 workers"),
        (["tracking.uri=nowhere://server"], "tracking.uri"),
    ],
)
def test_a_wrong_key_is_reported(words: list[str], expected: str, tmp_path: Path) -> None:
    done = corgi("run", SMOKE, f"store={tmp_path}", *words)
    assert done.code == 2
    assert expected in done.err
    assert "Traceback" not in done.err + done.out
    assert not list(tmp_path.glob("artifacts/*/*"))


def test_a_missing_config_is_reported(tmp_path: Path) -> None:
    done = corgi("run", tmp_path / "nowhere.yaml", "--json")
    assert done.code == 2
    assert done.document["status"] == "error"
    assert "no such file" in done.document["error"]


def test_a_list_without_the_named_column_is_reported(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,text\nhttp://127.0.0.1:1/1.png,one\n")
    source = f"{{kind: url_list, path: {tmp_path}/list.csv, caption_column: txt}}"
    config = tmp_path / "mine.yaml"
    config.write_text(f"download_shards:\n  source: {source}\n")
    done = corgi("run", config, f"store={tmp_path}/store")
    assert done.code == 2
    assert "txt" in done.err
    assert "text" in done.err
    assert "Traceback" not in done.err


def test_a_store_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for store, expected in ((tmp_path / "file" / "store", "store: "), (tmp_path, "has format 99")):
        (tmp_path / "store.json").write_text(json.dumps({"format": 99}))
        done = corgi("run", SMOKE, f"store={store}")
        assert done.code == 2
        assert expected in done.err
        assert "Traceback" not in done.err


def test_a_prior_that_nobody_made_is_reported(tmp_path: Path) -> None:
    done = corgi("run", SMOKE.parent / "language_free.yaml", f"store={tmp_path}")
    assert done.code == 2
    assert "reuse.train_prior" in done.err
    assert "quickstart.yaml" in done.err


def test_no_run_is_reported(tmp_path: Path) -> None:
    done = corgi("generate", "nothing", "--prompt", "a star", "--out", tmp_path, "--store", tmp_path)
    assert done.code == 2
    assert "run nothing: not found" in done.err
