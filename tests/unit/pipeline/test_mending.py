"""What was made again is compared with what was there before: a log of times is no other content."""

from pathlib import Path

import pytest

from pipeline.config.loading import load_config
from pipeline.errors import UsageError
from pipeline.mending import Mending
from pipeline.plan import make_plan
from pipeline.store import Store
from stages.contract.events import LoggedSteps, Metrics
from stages.formats.checkpoints import TrainedRecord
from stages.formats.training_logs import TRAINING_LOG, write_log
from stages.storage.artifact import COMPLETE, Output


def train(output: Output, weights: bytes, time: int) -> None:
    with output.collecting():
        output.write_bytes("prior/model.safetensors", weights)
        write_log(output, TRAINING_LOG, LoggedSteps((Metrics({"loss": 1.0}, 1, time=time),)))
        TrainedRecord(step=1, metrics={}).write(output)


@pytest.mark.parametrize(("weights", "is_other"), [(b"weights", False), (b"others!", True)])
def test_a_model_that_is_trained_again_is_another_by_its_weights_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, weights: bytes, is_other: bool
) -> None:
    store, config = Store(str(tmp_path / "store")), load_config("configs/smoke.yaml")
    output = store.output("train_prior", make_plan(config, store).stages["train_prior"].fingerprint)
    train(output, b"weights", 1000)
    output.write_bytes(COMPLETE, b"")
    Path(output.path("prior/model.safetensors")).write_bytes(b"wrights")
    with Mending(make_plan(config, store), store) as mending:
        damage = output.damaged_file("prior/model.safetensors", TrainedRecord.file, "other bytes")
        assert mending.set_aside(damage)
        train(output, weights, 2000)
        mending.compare("train_prior")
    assert ("was made again with other content" in caplog.text) == is_other


def test_a_store_that_is_away_while_damage_is_set_aside_is_the_trouble_of_one_stage(tmp_path: Path) -> None:
    store, config = Store(str(tmp_path / "store")), load_config("configs/smoke.yaml")
    output = store.output("train_prior", make_plan(config, store).stages["train_prior"].fingerprint)
    train(output, b"weights", 1000)
    output.write_bytes(COMPLETE, b"")
    Path(output.path("prior/model.safetensors")).write_bytes(b"wrights")
    damage = output.damaged_file("prior/model.safetensors", TrainedRecord.file, "other bytes")
    with Mending(make_plan(config, store), store) as mending:
        (tmp_path / "store/leases").write_bytes(b"no folder")
        with pytest.raises(UsageError, match=r"train_prior: the store cannot be read or written \(.*leases"):
            mending.set_aside_in_thread(damage).result(60)
        (tmp_path / "store/leases").unlink()
        assert mending.set_aside_in_thread(damage).result(60)
