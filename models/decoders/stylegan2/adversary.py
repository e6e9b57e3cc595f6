"""Generator and discriminator under one loss, so that one optimiser steps both at once.

Papers: StyleGAN2 (arXiv 1912.04958) and Lafite (arXiv 2111.13792), see `losses`. With L_D and L_G as there,

    loss = L_D( theta_D; x.detach() )  +  < x, dL_G/dx.detach() >,   x = G(theta_G)

has the gradient of L_D in the discriminator's weights and that of L_G in the generator's, each in its own only: the
second term is L_G carried back to the images and no further, so one pass of the discriminator serves both.

Symbols: x = generated image: [batch, 3, height, width]; z = embedding, h = the condition made of it: [batch, embed].
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from models.buffers import ExactBuffers
from models.decoders.base import Images
from models.decoders.stylegan2.augmentation import AugmentationControl, augment
from models.decoders.stylegan2.discriminator import Discriminator
from models.decoders.stylegan2.discriminator import DiscriminatorOutput as Output
from models.decoders.stylegan2.losses import (
    discriminator_loss,
    feature_distance,
    generator_loss,
    gradient_penalty,
    info_nce,
    path_lengths,
    pseudo_text,
)
from models.decoders.stylegan2.model import StyleGan2Generator
from models.decoders.stylegan2.spec import AdversarialSettings
from models.whole_batch import ALONE, WholeBatch

Batch = Mapping[str, Tensor]
EmbedImages = Callable[[Images], Float[Tensor, "batch embed"]]
"""Images in [-1, 1] to their CLIP embeddings, with gradients to the images."""
GroupMean = Callable[[Tensor], Tensor]
"""The mean of a tensor over all workers."""

_PATH_DECAY = 0.01
_PATH_FRACTION = 2  # path lengths are taken on one image in so many


class Adversary(ExactBuffers):
    """What is trained: the generator, and the discriminator that teaches it."""

    path_mean: Tensor

    def __init__(
        self,
        generator: StyleGan2Generator,
        discriminator: Discriminator,
        settings: AdversarialSettings,
        *,
        embed_images: EmbedImages | None = None,
        blocks: Sequence[int] | None = None,
        group_mean: GroupMean = lambda value: value,
        num_workers: int = 1,
        whole_batch: WholeBatch = ALONE,
    ) -> None:
        """Join both networks; `embed_images` is the frozen CLIP, `blocks` the widths of its concatenated models.

        What steers itself by statistics of the batch takes their `group_mean` over the `num_workers`; InfoNCE contrasts
        the images of the `whole_batch`, so that in training every worker must call this alike.
        """
        super().__init__()
        if settings.clip_weight > 0 and embed_images is None:
            raise ValueError("Adversary: found clip_weight above 0 and no embed_images: give CLIP's image encoder")
        self.generator = generator
        self.discriminator = discriminator
        self.settings = settings
        self.control = AugmentationControl(settings.augmentation_probability)
        self.register_buffer("path_mean", torch.zeros(1))
        self._embed_images = embed_images
        self._blocks = blocks
        self._group_mean = group_mean
        self._num_workers = num_workers
        self._whole_batch = whole_batch

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return each sample's loss and its parts.

        The batch holds images in [-1, 1], embeddings, step (the same for all), and the random inputs latent, noise,
        pseudo_text, augmentation [batch, 2, NUM_RANDOM_INPUTS] and path (noise on images), those that the settings
        need. In evaluation nothing is regularized, no buffer moves, and the loss is for display only.
        """
        condition = self.condition(batch)
        generated = self.generator(batch["latent"], condition, batch["noise"])
        leaf = generated.detach().requires_grad_(self.training)
        u = self.generator.standardizer.normalize(condition)
        true = self._augmented(batch["images"], batch, 0)
        changed_alike = self.settings.match_weight > 0  # for then they are compared with one another
        on_true = self.discriminator(true, u)
        on_generated = self.discriminator(self._augmented(leaf, batch, 0 if changed_alike else 1), u)
        parts = self._generator_parts(leaf, on_generated, on_true, u, batch)
        parts |= self._discriminator_parts(on_true, on_generated, u)
        loss = parts["discriminator"] + parts["generator"].detach()
        if self.training:
            (gradient,) = torch.autograd.grad(parts["generator"].sum(), leaf, retain_graph=True)
            carried = (generated * gradient).sum(dim=(1, 2, 3))
            loss = loss + carried - carried.detach() + self._r1(true, u, batch) + self._path(batch, condition)
            self._steer(on_true.logits)
        parts["augmentation"] = self.control.probability.expand(len(loss))
        return {"loss": loss} | {name: value.detach() for name, value in parts.items()}

    def condition(self, batch: Batch) -> Float[Tensor, "batch embed"]:
        """Return what the networks are conditioned on: the image's embedding, or pseudo text made of it."""
        xi = self.settings.embedding_noise
        return pseudo_text(batch["embeddings"], batch["pseudo_text"], xi) if xi > 0 else batch["embeddings"]

    def _augmented(self, images: Images, batch: Batch, which: int) -> Images:
        if self.settings.augmentation == "none":
            return images
        return augment(images, self.control.probability, batch["augmentation"][:, which])

    def _generator_parts(
        self, generated: Images, on_generated: Output, on_true: Output, u: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        settings = self.settings
        total = generator_loss(on_generated.logits)
        parts = {"logits_generated": on_generated.logits}
        if settings.feature_weight > 0:
            contrast = self._contrast(on_generated.features, u)
            parts["feature_contrast_generated"] = contrast
            total = total + settings.feature_weight * contrast
        if settings.match_weight > 0:
            parts["match"] = feature_distance(on_generated.maps, [maps.detach() for maps in on_true.maps])
            total = total + settings.match_weight * parts["match"]
        if settings.clip_weight > 0 and self._embed_images is not None:
            contrast = info_nce(
                self._embed_images(generated), batch["embeddings"], temperature=settings.clip_temperature,
                blocks=self._blocks, whole_batch=self._compared,
            )  # fmt: skip
            parts["clip_contrast"] = contrast
            total = total + settings.clip_weight * contrast
        return parts | {"generator": total}

    def _discriminator_parts(self, on_true: Output, on_generated: Output, u: Tensor) -> dict[str, Tensor]:
        settings = self.settings
        total = discriminator_loss(on_true.logits, on_generated.logits)
        parts = {"logits_true": on_true.logits}
        if settings.feature_weight > 0:
            contrast = self._contrast(on_true.features, u)
            parts["feature_contrast_true"] = contrast
            total = total + settings.feature_weight * contrast
        return parts | {"discriminator": total}

    def _contrast(self, features: Tensor, u: Tensor) -> Tensor:
        """Return InfoNCE between the discriminator's features and the conditions."""
        temperature = self.settings.feature_temperature
        return info_nce(features, u, temperature=temperature, whole_batch=self._compared)

    @property
    def _compared(self) -> WholeBatch:
        return self._whole_batch if self.training else ALONE  # a single worker evaluates

    def _r1(self, images: Images, u: Tensor, batch: Batch) -> Tensor | float:
        """Return gamma / 2 |dD/dx|^2 as often as is due, at what the discriminator saw, in single precision."""
        settings = self.settings
        if not _is_due(batch, settings.r1_weight, settings.r1_interval):
            return 0.0
        with torch.autocast(images.device.type, enabled=False):
            leaf = images.float().requires_grad_()
            penalty = gradient_penalty(self.discriminator(leaf, u).logits, leaf)
        return 0.5 * settings.r1_weight * settings.r1_interval * penalty

    def _path(self, batch: Batch, condition: Tensor) -> Tensor | float:
        """Return (|J_w^T y| - a)^2 as often as is due, on some of the images; a follows the mean length."""
        settings = self.settings
        if not _is_due(batch, settings.path_weight, settings.path_interval):
            return 0.0
        rows = slice(0, max(1, len(condition) // _PATH_FRACTION))
        with torch.autocast(condition.device.type, enabled=False):
            u = self.generator.standardizer.normalize(condition[rows])
            w = self.generator.mapping(batch["latent"][rows], u)
            images = self.generator.synthesis(w, u, batch["noise"][rows])
            lengths = path_lengths(images, w, batch["path"][rows])
        self.path_mean.lerp_(self._group_mean(lengths.detach().mean()), _PATH_DECAY)
        weight = settings.path_weight * settings.path_interval
        return weight * (lengths - self.path_mean.clone()).square().mean()

    @torch.no_grad()
    def _steer(self, logits: Float[Tensor, " batch"]) -> None:
        settings = self.settings
        if settings.augmentation == "adaptive":
            mean_sign = self._group_mean(logits.sign().mean())
            num_images = len(logits) * self._num_workers
            self.control.update(
                mean_sign, num_images, target=settings.augmentation_target, images_to_one=settings.augmentation_images
            )


def _is_due(batch: Batch, weight: float, interval: int) -> bool:
    return weight > 0 and int(batch["step"][0]) % interval == 0
