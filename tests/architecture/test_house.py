"""The house stands: names, sizes, import contracts, lazy imports."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config.messages import models_in
from pipeline.config.schema import STAGES, RunConfig
from tests.architecture.test_imports import ROOMS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "stages", "cluster", "models")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_import_contracts_hold() -> None:
    script = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(script)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_make_runs_every_folder_of_tests() -> None:
    folders = {f"tests/{path.relative_to(ROOT / 'tests').parts[0]}" for path in (ROOT / "tests").rglob("test_*.py")}
    commands = re.findall(r"\(PYTEST\) (tests/.*)", (ROOT / "Makefile").read_text())
    assert {word for command in commands for word in command.split()} == folders


def test_a_stage_is_one_name_everywhere() -> None:
    folders = {p.name for p in (ROOT / "stages").iterdir() if p.is_dir() and not p.name.startswith("_")}
    assert folders - ROOMS == set(STAGES)
    for name in STAGES:
        assert callable(importlib.import_module(f"stages.{name}.stage").run)
        variants = list(models_in(RunConfig.model_fields[name].annotation))
        assert variants
        assert all(variant.stage == name for variant in variants)


@pytest.mark.parametrize("module", ["pipeline.cli", "pipeline.config.loading", "pipeline.plan", "pipeline.report"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    heavy = ["torch", "ray", "mlflow", "deepspeed", "transformers", "diffusers", "open_clip", "numpy", "pandas"]
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stages_that_work_in_other_processes_leave_torch_to_those() -> None:
    here = {"fit_gaussians", "train_prior", "generate", "evaluate"}  # these compute in the stage's own process
    names = sorted(set(STAGES) - here)
    code = f"import sys, importlib; [importlib.import_module(f'stages.{{n}}.stage') for n in {names!r}]; "
    probe = [sys.executable, "-c", code + "print('torch' in sys.modules)"]
    done = subprocess.run(probe, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_wrong_run_is_reported_without_torch(tmp_path: Path) -> None:
    code = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); "
    words = ["generate", "nothing", "--prompt", "a star", "--out", str(tmp_path), "--store", str(tmp_path)]
    probe = [sys.executable, "-c", code + "from pipeline.cli import main; main()", *words]
    done = subprocess.run(probe, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "run nothing: not found" in done.stderr
    assert done.stdout.strip() == "False"


def test_files_and_functions_stay_readable() -> None:
    too_long = []
    for path in SOURCES:
        text = path.read_text()
        too_long += [str(path)] if text.count("\n") > 400 else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno > 60:
                too_long.append(f"{path}: {node.name}")
    assert not too_long


@pytest.mark.parametrize(
    "pattern",
    [
        r"num_clusters|cluster_index|n_clusters|centroid_cluster",  # embeddings have Gaussians, machines have clusters
        r"pickle\.loads?\(|yaml\.load\(|allow_pickle=True|weights_only=False",  # nothing is unpickled
    ],
)
def test_no_source_contains(pattern: str) -> None:
    assert not [path for path in SOURCES if re.search(pattern, path.read_text())]
