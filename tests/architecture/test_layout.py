"""Everything in its room: folders, fixed file names, paths inside artifacts, words."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.config.schema import STAGES
from tests.architecture.words import find_words

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for package in ("pipeline", "stages", "cluster", "models") for path in (ROOT / package).rglob("*.py")
)
#: What other names a stage's fixed files might be given: config, stage, check, task, worker, inspect.
MISNAMED = {"checks", "inspection", "settings", "shard", "show", "tasks", "workers"}
KNOWN_MISNAMED = 5  # to become none
#: Paths inside artifacts: each is written in one module.
PATHS = (
    r"(?<!_)shards/",
    "img_emb",
    "clips.json",
    "gaussians.safetensors",
    "plan.json",
    "fit.json",
    "samples.jsonl",
    "extra_captions",
    "latents.json",
    "text_encoders.json",
)
KNOWN = {"samples.jsonl": 2}  # to become none


def test_nothing_lies_loose_beside_the_stages() -> None:
    assert [path.name for path in (ROOT / "stages").iterdir() if path.is_file()] == ["__init__.py"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_its_files(stage: str) -> None:
    names = {path.stem for path in (ROOT / "stages" / stage).glob("*.py")}
    assert {"config", "stage"} <= names


def test_the_files_of_a_stage_have_their_fixed_names() -> None:
    files = [path for stage in STAGES for path in (ROOT / "stages" / stage).rglob("*.py")]
    misnamed = [str(path.relative_to(ROOT)) for path in files if path.stem in MISNAMED]
    assert len(misnamed) <= KNOWN_MISNAMED, misnamed


@pytest.mark.parametrize("stage", [stage for stage in STAGES if (ROOT / "stages" / stage / "check.py").is_file()])
def test_check_py_has_the_check_that_runs_before_anything_starts(stage: str) -> None:
    tree = ast.parse((ROOT / "stages" / stage / "check.py").read_text())
    assert "check" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("fragment", PATHS)
def test_a_path_inside_an_artifact_is_written_in_one_module(fragment: str) -> None:
    found = [path for path in SOURCES if any(re.search(fragment, text) for text in _paths(path))]
    assert 1 <= len(found) <= KNOWN.get(fragment, 1), found


def test_banned_words_do_not_come_back() -> None:
    found = find_words()
    assert not found, "\n".join(found)


def _paths(path: Path) -> list[str]:
    """Return the strings of a module that are neither docstrings nor sentences."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [node.value for node in constants if isinstance(node.value, str) and " " not in node.value]


def test_no_binary_file_in_tests_is_large() -> None:
    listed = subprocess.run(["git", "ls-files", "-z", "tests"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert not [path for path in files if path.is_file() and path.stat().st_size > 4096 and b"\0" in path.read_bytes()]
