"""The path of README's "Your own images", its commands taken from the text: a folder, more images, more steps."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.store import Store
from stages.formats.checkpoints import ContinuedRecord
from tests.e2e.conftest import ROOT, clean_environment
from tests.integration.test_growth import add_photograph

#: What makes the experiment small; the settings themselves are those that `corgi init` writes.
SMALL = (
    "tracking.register_model=false evaluate=null generate.prompts.num=4 generate.decoder.num_steps=2 "
    "cluster.num_cpus=1 "  # the imports of a second worker take longer than all of a stage's work
    "train_clip.training.num_steps=4 train_clip.training.warmup_steps=1 "
    "train_clip.training.validation_interval=2 train_clip.training.batch_size=16 "
    "train_prior.training.num_steps=6 train_prior.training.warmup_steps=1 "
    "train_prior.training.validation_interval=3 train_decoder.training.num_steps=4 "
    "train_decoder.training.warmup_steps=1 train_decoder.training.batch_size=4 "
    "train_decoder.network.channels=[32] train_decoder.network.unshuffle=8 "
    "train_decoder.samples.num_images=2 train_decoder.training.validation_interval=2 train_decoder.held_out_images=4"
)

LONGEST = 1500  # seconds of one command on a machine that is slow and busy


def commands() -> list[str]:
    text = (ROOT / "README.md").read_text().partition("## Your own images\n")[2].partition("\n## ")[0]
    lines = re.findall(r"```\n(.*?)```", text, re.DOTALL)[0].splitlines()
    return [line.partition("  #")[0].strip() for line in lines]


def run(command: str, folder: Path) -> str:
    words = command.split(" ")
    if words[:2] in (["corgi", "run"], ["corgi", "plan"]):
        given = [re.sub(r"num_steps=\d+", "num_steps=9", word) for word in words[3:]]
        command = shlex.join([*words[:3], *SMALL.split(), *given])
    command = re.sub(r"^corgi\b", f"{shlex.quote(sys.executable)} -m pipeline", command)
    done = subprocess.run(
        command, shell=True, cwd=folder, env=clean_environment() | {"PYTHONPATH": str(ROOT), "COLUMNS": "400"},
        capture_output=True, text=True, timeout=LONGEST, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(2 * LONGEST)  # three runs of seven stages
def test_a_folder_becomes_a_model_and_grows(tmp_path: Path) -> None:
    for name, count, first in (("photographs", 220, 0), ("more", 10, 1000)):
        (tmp_path / name).mkdir()
        for number in range(first, first + count):
            add_photograph(tmp_path / name, number)
    listed = commands()
    assert [command.split()[1] for command in listed if command.startswith("corgi ")] == [
        "init", "validate", "plan", "run", "plan", "run", "run", "generate", "export",
    ]  # fmt: skip
    said = [run(command, tmp_path) for command in listed]
    assert "4 of 5 shards reused" not in said[2]
    assert "5 of 6 shards reused from photographs-" in said[5]
    store = Store(str(tmp_path / "workspace"))
    continued = [record for one in store.artifacts(["train_prior"]) if (record := ContinuedRecord.read(one))]
    assert [record.step for record in continued] == [6]
    assert "went on: train_prior from step 6 of artifact" in said[7]
    assert len(list((tmp_path / "images").glob("*.png"))) == 1
    assert (tmp_path / "my-model" / "README.md").is_file()
