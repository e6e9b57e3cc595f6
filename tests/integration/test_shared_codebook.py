"""Two real processes train one codebook between them."""

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.multiprocessing.spawn import spawn

from models.autoencoders.codebook import Codebook
from models.autoencoders.spec import CodebookSettings
from stages.train_autoencoder.task import ProcessGroup

NUM_STEPS = 3


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 3, 2, 2, generator=generator), torch.rand(4, generator=generator)


def make_codebook(world_size: int) -> Codebook:
    torch.manual_seed(0)
    return Codebook(CodebookSettings(num_codes=16), 3, ProcessGroup(world_size))


def train(rank: int, world_size: int, folder: str) -> None:
    if world_size > 1:
        store = f"file://{folder}/store"
        distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    codebook, fraction = make_codebook(world_size), 4 // world_size
    for step in range(NUM_STEPS):
        z, positions = (whole[rank * fraction : (rank + 1) * fraction] for whole in batch(step))
        codebook(z, positions)
    save_file(dict(codebook.state_dict()), f"{folder}/{world_size}-{rank}")
    if world_size > 1:
        distributed.destroy_process_group()


def test_every_process_holds_the_codebook_of_one(tmp_path: Path) -> None:
    train(0, 1, str(tmp_path))
    spawn(train, (2, str(tmp_path)), nprocs=2)
    alone = load_file(tmp_path / "1-0")
    for rank in range(2):
        for name, value in load_file(tmp_path / f"2-{rank}").items():
            torch.testing.assert_close(value, alone[name], msg=partial("{}: {}".format, name))
