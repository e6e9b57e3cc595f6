"""Two processes of a training group that find other checkpoints damaged, each on its own, go on from the same one."""

import os
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from cluster.training import rank_environment
from stages.contract.errors import ArtifactError
from stages.contract.events import Event
from stages.formats.checkpoints import checkpoint_steps
from stages.storage.artifact import Output
from stages.training.beginning import agreed_beginning
from stages.training.engine import join_group
from stages.training.job import TrainJob
from stages.training.loop import run_training
from stages.training.task import Batch, BatchPart, RankInfo
from tests.ports import free_port
from tests.unit.stages.training.line import LineTask
from tests.unit.stages.training.line_training import assert_same, config, output_of, run, weights
from tests.unit.stages.training.test_damaged_checkpoints import flip

SETTINGS = {"checkpoint_interval": 2, "max_checkpoints": 3, "async_checkpoints": False, "prefetch_batches": 1}
WEIGHTS, RECORD = "checkpoints/00000008/weights.safetensors", "units/checkpoint_00000008.json"


class NotingTask(LineTask):
    """Writes down of which step each process takes samples first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(dropout=False)
        self.folder = folder

    def setup(self, rank_info: RankInfo) -> None:
        super().setup(rank_info)
        self.note = self.folder / f"first of {rank_info.rank}"

    def prepare(self, part: BatchPart) -> Batch:
        if not self.note.exists():
            self.note.write_text(str(part.step))
        return super().prepare(part)


def become(rank: int, port: int, folder: Path) -> None:
    """Be a process of a group of two, on a machine with a cache of its own."""
    os.environ.update(rank_environment(rank, 2, 0, "127.0.0.1", port), CORGI_CACHE=str(folder / f"cache {rank}"))


def ignore(event: Event) -> None:
    pass


def train_on_views(rank: int, port: int, folder: Path, views: tuple[Path, Path]) -> None:
    """Train as one process of two, each of which sees the artifact in a folder of its own."""
    become(rank, port, folder)
    task = partial(NotingTask, folder)
    run_training(TrainJob(task, config(**SETTINGS), 3, output_of(views[rank])), ignore)


def begin_on_views(rank: int, port: int, folder: Path) -> None:
    """Write down from which step each process goes on, with both folders that they see damaged more and more."""
    become(rank, port, folder)
    rank_info = join_group(use_gpu=False)
    own, found = output_of(folder / f"view {rank}"), []
    for damaged_for, step in ((None, None), (0, 8), (1, 6), (1, 4)):
        if damaged_for == rank and step is not None:
            flip(folder / f"view {rank}", step)
        distributed.barrier()
        try:
            checkpoint, _ = agreed_beginning(own, rank_info)
            found.append(str(checkpoint.step if checkpoint else 0))
        except ArtifactError as error:
            found.append(str(error))
    own_note, other_note = (folder / f"found by {one}" for one in (rank, 1 - rank))
    own_note.with_suffix(".part").write_text("\n".join(found))
    own_note.with_suffix(".part").rename(own_note)
    while not other_note.exists():  # neither takes the connection away while the other one still receives
        time.sleep(0.05)
    os._exit(0)  # torch's threads of a group may abort a process that ends in the usual way


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with checkpoints of steps 4, 6 and 8."""
    folder = tmp_path_factory.mktemp("cut") / "artifact"
    with pytest.raises(ValueError, match="no data for step 9"):
        run(folder, config(**SETTINGS), LineTask(dropout=False, fail_at=9))
    assert checkpoint_steps(output_of(folder)) == [4, 6, 8]
    return folder


def test_processes_that_see_other_damage_train_as_from_the_checkpoint_that_all_read(cut: Path, tmp_path: Path) -> None:
    reference, one, other = (Path(shutil.copytree(cut, tmp_path / name)) for name in ("reference", "one", "other"))
    flip(other, 8)  # process 0 reads it whole
    (reference / RECORD).unlink()
    for folder, views in ((tmp_path / "a", (reference, reference)), (tmp_path / "b", (one, other))):
        folder.mkdir()
        spawn(train_on_views, (free_port(), folder, views), nprocs=2)
        assert [(folder / f"first of {rank}").read_text() for rank in range(2)] == ["6", "6"]
    assert_same(weights(one), weights(reference))
    assert (one / "damaged" / RECORD).exists()


def test_processes_agree_again_and_again_and_never_begin_anew_while_one_reads_a_checkpoint(
    cut: Path, tmp_path: Path
) -> None:
    for rank in range(2):
        shutil.copytree(cut, tmp_path / f"view {rank}")
    spawn(begin_on_views, (free_port(), tmp_path), nprocs=2)
    found = [(tmp_path / f"found by {rank}").read_text().split("\n") for rank in range(2)]
    for one in found:
        assert one[:3] == ["8", "6", "4"]
        assert one[3].startswith("training: the checkpoints of steps 4 in ")
        assert "found none that all processes read whole, though some of them do (rank 1 on " in one[3]
    assert checkpoint_steps(output_of(tmp_path / "view 0")) == [4], "what one process reads whole is not set aside"


def test_damage_since_a_checkpoint_was_compared_here_is_found(
    cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORGI_CACHE", str(tmp_path / "cache"))
    output = output_of(Path(shutil.copytree(cut, tmp_path / "artifact")))
    path = output.local(WEIGHTS, record=RECORD)
    before = path.stat()
    flip(tmp_path / "artifact", 8)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Output(output.uri, output.stage, output.fingerprint).local(WEIGHTS, record=RECORD) == path  # remembered
    checkpoint, _ = agreed_beginning(output, RankInfo(0, 1, torch.device("cpu")))
    assert checkpoint is not None
    assert checkpoint.step == 6
    assert checkpoint_steps(output) == [4, 6]
    assert (tmp_path / "artifact/damaged" / WEIGHTS).exists()
