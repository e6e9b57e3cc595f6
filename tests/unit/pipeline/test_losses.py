"""When a stage whose process is lost again and again has got further in between."""

from pathlib import Path

import torch

from models.gaussians.kmeans import KMeansState
from pipeline.losses import StageLosses
from pipeline.store import Store
from stages.formats.checkpoints import Checkpoint, write_checkpoint
from stages.formats.gaussians import write_kmeans_state
from stages.storage.artifact import Output


def output_of(folder: Path, stage: str) -> Output:
    return Store(str(folder)).output(stage, "f0")


def test_a_training_gets_further_while_its_checkpoints_do_though_their_number_stays(tmp_path: Path) -> None:
    output, losses = output_of(tmp_path, "train_decoder"), StageLosses()
    for step in (5000, 10_000, 15_000, 20_000, 25_000):
        for number in (step - 2000, step - 1000, step):
            write_checkpoint(output, Checkpoint(number, {"model": {"weight": torch.zeros(1)}}), keep=2)
        assert len(output.unit_names()) == 2
        assert losses.note(output) == 1
    assert [losses.note(output) for _ in range(3)] == [2, 3, 4]
    assert losses.of("train_decoder") == 4


def test_a_checkpoint_that_was_there_before_is_nothing_new(tmp_path: Path) -> None:
    """Of two checkpoints one is damaged and made again, over and over: that comes to an end."""
    output, losses = output_of(tmp_path, "train_decoder"), StageLosses()
    for count, is_there in enumerate((True, False, True, False, True), 1):
        if is_there:
            output.finish_unit("checkpoint_00001000", {})
        else:
            output.set_aside(["units/checkpoint_00001000.json"])
        assert losses.note(output) == count


def test_a_fit_of_gaussians_gets_further_by_each_pass(tmp_path: Path) -> None:
    output, losses = output_of(tmp_path, "fit_gaussians"), StageLosses()
    counts = []
    for passes in (0, 1, 1, 2, 5):
        means = torch.zeros(2, 3)
        write_kmeans_state(output, KMeansState(means, torch.ones(3), tuple(float(one) for one in range(passes))))
        counts.append(losses.note(output))
    assert counts == [1, 1, 2, 1, 1]


def test_stages_are_counted_apart(tmp_path: Path) -> None:
    shards, other, losses = output_of(tmp_path, "download_shards"), output_of(tmp_path, "train_prior"), StageLosses()
    assert [losses.note(one) for one in (shards, other, shards)] == [1, 1, 2]
    shards.finish_unit("00000", {})
    assert [losses.note(one) for one in (shards, other)] == [1, 2]
    assert (losses.of("download_shards"), losses.of("train_prior"), losses.of("generate")) == (1, 2, 0)
