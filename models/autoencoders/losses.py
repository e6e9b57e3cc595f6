"""The losses of an autoencoder: reconstruction, a perceptual distance, an adversary, and its bottleneck's term.

VggDistance is ours: torchmetrics' LPIPS downloads its VGG and weighs channels by learned weights, another distance.

Papers: Esser et al., Taming transformers (arXiv 2012.09841), section 3.1, for the sum; Isola et al. (arXiv 1611.07004)
for the discriminator of patches; Lim and Ye (arXiv 1705.02894) for the hinge losses; Zhang et al., LPIPS
(arXiv 1801.03924) for distances between features of VGG. The discriminator normalises by groups, not by batches, so
that an image's loss depends on itself alone.

Generator and discriminator learn in one backward pass and stay apart: the generator's loss reads the discriminator
with its weights detached, the discriminator's loss reads reconstructions that are detached.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from models.autoencoders.model import Images, KLAutoencoder, VQAutoencoder
from models.autoencoders.spec import AdversarySpec

PerSample = Float[Tensor, "batch"]
_VGG_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class GradientDistance(nn.Module):
    """A perceptual distance that needs no trained network: differences of neighbouring pixels, at several scales.

    It is no LPIPS: it asks for sharp edges in the right places, and knows nothing of what images show.
    """

    def __init__(self, num_scales: int = 3) -> None:
        """Compare at 1, 1/2, 1/4, ... of the resolution."""
        super().__init__()
        self._num_scales = num_scales

    def forward(self, a: Images, b: Images) -> PerSample:
        """Return the mean absolute difference of both images' slopes, averaged over the scales."""
        total = torch.zeros(len(a), device=a.device)
        error = a - b  # slopes are linear: the difference of slopes is the slope of the difference
        for scale in range(self._num_scales):
            error = F.avg_pool2d(error, 2) if scale else error
            total = total + (error.diff(dim=-1).abs().mean((1, 2, 3)) + error.diff(dim=-2).abs().mean((1, 2, 3))) / 2
        return total / self._num_scales


class VggDistance(nn.Module):
    """Distance between normalised features of VGG-16, at the last activation of each of its five blocks.

    LPIPS without its learned weights of channels: each channel counts alike.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of torchvision's vgg16, of which the classifier is left aside.

        Raises:
            ValueError: they are not of vgg16.
        """
        super().__init__()
        self.blocks = _vgg_blocks()
        layers = [layer for block in self.blocks for layer in block.children()]
        wanted = {f"features.{index}.{name}" for index, layer in enumerate(layers) for name in layer.state_dict()}
        if missing := sorted(wanted - set(state)):
            raise ValueError(f"found no {missing[0]} among its {len(state)} tensors: expected torchvision's vgg16")
        for index, layer in enumerate(layers):
            layer.load_state_dict({name: state[f"features.{index}.{name}"] for name in layer.state_dict()})
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, a: Images, b: Images) -> PerSample:
        """Return the mean squared difference of unit feature vectors, summed over the blocks."""
        x = torch.cat([(image / 2 + 0.5 - self.mean) / self.std for image in (a, b)])
        total = torch.zeros(len(a), device=a.device)
        for block in self.blocks:
            x = block(x)
            left, right = F.normalize(x, dim=1, eps=1e-8).chunk(2)
            total = total + (left - right).square().sum(1).mean((1, 2))
        return total


def _vgg_blocks() -> nn.ModuleList:
    """Build the convolutions of VGG-16, cut behind the last activation of each block."""
    blocks: list[nn.Module] = []
    pool: list[nn.Module] = []
    width = 3
    for widths in _VGG_WIDTHS:
        layers: list[nn.Module] = list(pool)
        for out in widths:
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()]
            width = out
        blocks.append(nn.Sequential(*layers))
        pool = [nn.MaxPool2d(2)]
    return nn.ModuleList(blocks)


class PatchDiscriminator(nn.Module):
    """Tells real images from reconstructions, patch by patch."""

    def __init__(self, spec: AdversarySpec) -> None:
        """Build ``num_layers`` convolutions that halve the grid, each twice as wide as the one before."""
        super().__init__()
        width = spec.width
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(spec.num_layers - 1):
            layers += [nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.GroupNorm(8, 2 * width)]
            layers += [nn.LeakyReLU(0.2)]
            width *= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, images: Images) -> Float[Tensor, "batch 1 row column"]:
        """Return a score per patch; above 0 means real."""
        scores: Tensor = self.layers(images)
        return scores


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """What each term counts."""

    absolute: float = 1.0
    square: float = 0.0
    perceptual: float = 1.0
    kl: float = 1e-6
    """Of the divergence in nats per number of the image."""
    commitment: float = 0.25
    adversarial: float = 0.0
    adversarial_start: int = 0
    """The step from which the adversary takes part."""


class AutoencoderLoss(nn.Module):
    """An autoencoder, with what it is trained by, in the form that the training loop calls."""

    def __init__(
        self,
        autoencoder: KLAutoencoder | VQAutoencoder,
        weights: LossWeights,
        *,
        perceptual: nn.Module | None = None,
        discriminator: PatchDiscriminator | None = None,
    ) -> None:
        """Put the parts together; without a discriminator there is no adversarial term."""
        super().__init__()
        self.autoencoder, self.weights = autoencoder, weights
        self.perceptual, self.discriminator = perceptual, discriminator

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the loss of each sample and its terms.

        ``batch``: images [batch, height, width, 3] of 8 bits, step [batch], and noise (kind kl) or positions (kind vq).
        """
        images = batch["images"].permute(0, 3, 1, 2).float() / 127.5 - 1
        reconstruction, terms = self._reconstruct(images, batch)
        loss = terms.pop("bottleneck")
        error = reconstruction - images
        terms |= {"absolute_error": error.abs().mean((1, 2, 3)), "square_error": error.square().mean((1, 2, 3))}
        loss = loss + self.weights.absolute * terms["absolute_error"] + self.weights.square * terms["square_error"]
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(reconstruction, images)
            loss = loss + self.weights.perceptual * terms["perceptual"]
        if self.discriminator is not None:
            takes_part = (batch["step"] >= self.weights.adversarial_start).float()
            terms |= adversarial_terms(self.discriminator, images, reconstruction)
            adversarial = self.weights.adversarial * terms["generator"] + terms["discriminator"]
            loss = loss + takes_part * adversarial
        return {"loss": loss, **terms}

    def _reconstruct(self, images: Images, batch: Mapping[str, Tensor]) -> tuple[Images, dict[str, Tensor]]:
        if isinstance(self.autoencoder, KLAutoencoder):
            reconstruction, kl = self.autoencoder(images, batch["noise"])
            per_number = kl / images[0].numel()
            return reconstruction.float(), {"bottleneck": self.weights.kl * per_number, "kl": kl}
        reconstruction, quantized = self.autoencoder(images, batch["positions"] if self.training else None)
        bottleneck = self.weights.commitment * quantized.commitment
        perplexity = self.autoencoder.codebook.perplexity.expand(len(images))
        terms = {"bottleneck": bottleneck, "commitment": quantized.commitment, "code_perplexity": perplexity}
        return reconstruction.float(), terms


def adversarial_terms(discriminator: nn.Module, real: Images, fake: Images) -> dict[str, PerSample]:
    """Return both sides' hinge losses, whose gradients reach the generator and the discriminator alone, each its own.

    discriminator  (relu(1 - D(real)) + relu(1 + D(sg(fake)))) / 2
    generator      -D'(fake), D' with its weights detached
    """
    fixed = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    fooled = functional_call(discriminator, fixed, (fake,))
    of_real, of_fake = discriminator(torch.cat([real, fake.detach()])).chunk(2)
    hinge = (F.relu(1 - of_real) + F.relu(1 + of_fake)) / 2
    return {"generator": -fooled.mean((1, 2, 3)), "discriminator": hinge.mean((1, 2, 3))}
