"""Two processes with a part of a batch each learn from it what one process learns from the whole."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from models.decoders.stylegan2.adversary import Adversary
from models.decoders.stylegan2.spec import AdversarialSettings
from models.priors.projection.model import ProjectionPrior
from models.priors.projection.spec import ProjectionPriorSpec
from models.priors.spec import TransformerSpec
from models.whole_batch import WholeBatch
from stages.train_clip.model import ContrastiveClip
from stages.training.task import RankInfo
from stages.training.whole_batch import whole_batch_of
from tests.numerics.golden_losses import make_batch as make_gaussian_batch
from tests.numerics.golden_losses import make_prior
from tests.unit.models.decoders.stylegan2.factories import (
    embed_images,
    make_batch,
    make_discriminator,
    make_generator,
)

PAIRS, EMBED = 8, 6
Make = Callable[[WholeBatch], tuple[nn.Module, dict[str, Tensor]]]
CAPTIONS = torch.tensor([0, 1, 2, 3, 4, 0, 5, 2])  # two captions are on both processes


class Towers(nn.Module):
    """As much of open_clip's model as the loss calls."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(12, EMBED), nn.Embedding(6, EMBED)
        self.logit_scale = nn.Parameter(torch.tensor([2.0]))

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self.image(pixels.flatten(1))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.text(tokens).mean(1)


def clip(whole_batch: WholeBatch) -> tuple[nn.Module, dict[str, Tensor]]:
    tokens = torch.stack([CAPTIONS, torch.zeros_like(CAPTIONS)], 1)
    model = ContrastiveClip(Towers(), max_logit_scale=100.0, label_smoothing=0.1, whole_batch=whole_batch)
    return model, {"pixels": torch.randn(PAIRS, 3, 2, 2), "tokens": tokens}


def projection(whole_batch: WholeBatch) -> tuple[nn.Module, dict[str, Tensor]]:
    spec = ProjectionPriorSpec(EMBED, network=TransformerSpec(width=8, num_layers=1, num_heads=2), form="mlp")
    images, texts = torch.randn(PAIRS, EMBED), torch.randn(6, EMBED)[CAPTIONS]
    prior = ProjectionPrior.for_training(spec, images, texts, None)
    nn.init.normal_(prior.get_parameter("network.output.weight"))
    prior.whole_batch = whole_batch
    return prior, {"image_embedding": images, "text_embedding": texts, "drop_text": torch.arange(PAIRS) == 5}


def stylegan2(whole_batch: WholeBatch) -> tuple[nn.Module, dict[str, Tensor]]:
    """Without the std among images, which stays each process's own."""
    settings = AdversarialSettings(r1_weight=0.0, clip_weight=2.0, feature_weight=3.0)
    networks = make_generator(), make_discriminator(std_group=0)
    adversary = Adversary(*networks, settings, embed_images=embed_images, whole_batch=whole_batch)
    return adversary, make_batch(networks[0], count=PAIRS)


def learnable_gaussians(whole_batch: WholeBatch) -> tuple[nn.Module, dict[str, Tensor]]:
    """Whose captions select other ones on either process."""
    prior = make_prior(learnable=True, trained=True).train()
    prior.whole_batch = whole_batch
    batch = make_gaussian_batch(prior)
    by_gaussian = prior.bank.select(batch["text_embedding"]).argsort(stable=True)
    chosen = by_gaussian[:: len(by_gaussian) // PAIRS][:PAIRS]
    return prior, {name: rows[chosen] for name, rows in batch.items()}


MAKERS: dict[str, Make] = {
    "clip": clip,
    "gaussians": learnable_gaussians,
    "projection": projection,
    "stylegan2": stylegan2,
}


def learn(rank: int, world_size: int, folder: str) -> None:
    """Write down the outputs of this process's samples and, as the loop averages them, the gradients of all."""
    torch.set_num_threads(1)
    if world_size > 1:
        store = f"file://{folder}/store"
        distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    count = PAIRS // world_size
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        model, batch = make(whole_batch_of(RankInfo(rank, world_size, torch.device("cpu"))))
        outputs = model({key: value[rank * count : (rank + 1) * count] for key, value in batch.items()})
        outputs["loss"].mean().backward()
        found = {f"output.{key}": value.detach().clone() for key, value in outputs.items()}
        for key, parameter in model.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if world_size > 1:
                distributed.all_reduce(gradient)
            found[f"gradient.{key}"] = gradient / world_size
        save_file(found, f"{folder}/{name}-{world_size}-{rank}")
    if world_size > 1:
        distributed.destroy_process_group()


def test_the_number_of_processes_changes_neither_losses_nor_gradients(tmp_path: Path) -> None:
    learn(0, 1, str(tmp_path))
    spawn(learn, (2, str(tmp_path)), nprocs=2)
    for name in MAKERS:
        alone = load_file(tmp_path / f"{name}-1-0")
        one, other = (load_file(tmp_path / f"{name}-2-{rank}") for rank in range(2))
        for key, value in alone.items():
            found = torch.cat([one[key], other[key]]) if key.startswith("output.") else one[key]
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5, msg=partial(f"{name}, {key}: {{}}".format))
        assert any(value.abs().max() > 1e-3 for key, value in alone.items() if key.startswith("gradient."))


def test_a_model_in_evaluation_asks_no_other_process() -> None:
    """One process evaluates alone: there is no group here that could be asked."""
    for make in MAKERS.values():
        model, batch = make(whole_batch_of(RankInfo(0, 2, torch.device("cpu"))))
        assert len(model.eval()(batch)["loss"]) == PAIRS
