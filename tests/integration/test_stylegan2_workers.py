"""Two processes that see different images steer StyleGAN2's buffers alike."""

import json
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from models.decoders.stylegan2.adversary import Adversary
from models.decoders.stylegan2.spec import AdversarialSettings
from stages.train_decoder.stylegan2.task import group_mean
from tests.unit.models.decoders.stylegan2.factories import make_batch, make_discriminator, make_generator

SETTINGS = AdversarialSettings(
    r1_weight=0, clip_weight=0, path_weight=1.0, path_interval=1, augmentation="adaptive",
    augmentation_probability=0.5, augmentation_images=800,
)  # fmt: skip


def take_a_step(rank: int, folder: str) -> None:
    """Run one pass as a process of a group of two, and write the buffers down."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    adversary = Adversary(make_generator(), make_discriminator(), SETTINGS, group_mean=group_mean, num_workers=2)
    batch = make_batch(adversary.generator)
    for name in ("images", "embeddings", "latent"):
        batch[name] = batch[name] * (1 - 0.5 * rank)
    logits = adversary(batch)["logits_true"]
    buffers = [float(adversary.control.probability), float(adversary.path_mean), float(logits.mean())]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(buffers))
    torch.distributed.destroy_process_group()


def test_two_processes_keep_the_same_buffers(tmp_path: Path) -> None:
    spawn(take_a_step, args=(str(tmp_path),), nprocs=2)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one[:2] == other[:2]
    assert one[2] != other[2]  # though they saw different images
    assert abs(one[0] - 0.5) == pytest.approx(0.01, rel=1e-4)  # one step of the 8 images of both
