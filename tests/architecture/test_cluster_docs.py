"""Commands of docs/cluster.md that need a cluster of somebody: programs, options, files and names exist."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer.main
import yaml

from pipeline.cli import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "cluster.md").read_text()
COMMANDS = [
    re.sub(r"\s+# .*", "", line).removesuffix(" &")
    for block in re.findall(r"```\n(.*?)```", DOCUMENT, re.S)
    for line in block.splitlines()
]
ELSEWHERE = {"curl", "docker", "export", "kubectl", "sbatch"}  # programs that are not this project's


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one(command: str) -> None:
    for part in command.split(" && "):
        words = shlex.split(part)
        if words[0] in {"ray", "corgi"}:
            _check_options(words)
        else:
            assert words[0] in ELSEWHERE | {"chmod"}
        named = [word for word in words if word.startswith(("cluster/", "configs/"))]
        assert not [name for name in named if not (ROOT / name).exists()]


def _check_options(words: list[str]) -> None:
    from ray.scripts.scripts import cli

    group = cli if words[0] == "ray" else typer.main.get_command(app)
    own = words[1 : words.index("--")] if "--" in words else words[1:]
    command: click.Command = group  # type: ignore[assignment]  # typer's commands are click's
    path = [words[0]]
    while isinstance(found := getattr(command, "commands", None), dict):
        path.append(own[len(path) - 1])
        assert path[-1] in found, path
        command = found[path[-1]]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in own if word.startswith("--")} <= known


def test_names_of_kubernetes_objects_are_those_of_the_manifests() -> None:
    manifests = ROOT / "cluster" / "manifests"
    cluster = yaml.safe_load((manifests / "raycluster.yaml").read_text())["metadata"]["name"]
    job = yaml.safe_load((manifests / "rayjob.yaml").read_text())["metadata"]["name"]
    assert f"service/{cluster}-head-svc" in DOCUMENT
    assert f"get secret {cluster} " in DOCUMENT
    assert f"get rayjob {job}\n" in DOCUMENT


def test_the_image_of_the_document_has_the_pinned_torch() -> None:
    pinned = re.search(r"^torch==([^\s;]+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert f"TORCH={pinned[1]}+cpu" in DOCUMENT


def test_every_manifest_is_walked_through() -> None:
    names = [path.name for path in (ROOT / "cluster" / "manifests").iterdir() if path.suffix != ".dockerignore"]
    assert not [name for name in names if f"cluster/manifests/{name}" not in DOCUMENT]
