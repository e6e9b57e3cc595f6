"""What train_prior supplies to the training loop."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from models.gaussians import GaussianBank
from models.priors import (
    DiffusionPrior,
    DiffusionPriorSettings,
    ScheduleSettings,
    TextFeatures,
    training_batch,
    training_draws,
)
from stages.artifacts import Artifact, Output
from stages.embeddings import clip_identity
from stages.events import Event, Metrics, Picture
from stages.model_files import save_model
from stages.train_prior.config import DiffusionPriorConfig, ShiftedPriorConfig
from stages.train_prior.data import Pairs, load_pairs
from stages.train_prior.validation import Reports, as_metrics, plot_reports, report_by_steps
from stages.training.order import SampleOrder
from stages.training.randomness import sample_seeds
from stages.training.task import Batch, BatchPart, Place

FOLDER = "prior"
VALIDATION = "validation.json"


@dataclass
class PriorTask:
    """Training of a diffusion prior on captioned embeddings; ``gaussians`` is there for kind shifted only."""

    config: DiffusionPriorConfig
    embeddings: Artifact
    gaussians: Artifact | None
    _state: "_State | None" = field(default=None, init=False)

    def setup(self, place: Place) -> None:
        """Read the pairs; every process holds all of them.

        Raises:
            InputFault: there are too few captioned samples.
        """
        train, held_out = load_pairs(self.config, self.embeddings)
        embed_dim = train.image.shape[1]
        bank = self._bank(embed_dim)
        self._state = _State(
            train,
            held_out.first(self.config.validation.max_pairs),
            clips=clip_identity(self.embeddings),
            order=SampleOrder([len(train)], window_size=len(train), seed=self.config.seed),
            bank=bank,
            settings=prior_settings(self.config, num_gaussians=bank.num_gaussians, embed_dim=embed_dim),
        )

    def _bank(self, embed_dim: int) -> GaussianBank:
        if self.gaussians is None or not isinstance(self.config, ShiftedPriorConfig):
            return GaussianBank.standard(embed_dim)
        fitted = load_file(self.gaussians.local("gaussians.safetensors"))
        return GaussianBank(fitted["means"], fitted["stds"], kappa=self.config.kappa)

    @property
    def state(self) -> "_State":
        """What :meth:`setup` opened."""
        if self._state is None:
            raise RuntimeError("PriorTask.setup has not been called")
        return self._state

    def build_model(self) -> nn.Module:
        """Make the untrained prior, with its Gaussians and with the scales of the training pairs."""
        prior = DiffusionPrior(self.state.settings, self.state.bank)
        prior.measure(self.state.train.image, self.state.train.text)
        return prior

    def prepare(self, part: BatchPart) -> Batch:
        """Take the pairs of the part and draw their times, noise and dropped captions."""
        train, seeds = self.state.train, sample_seeds(self.config.seed, part)
        rows = torch.from_numpy(self.state.order.at(part.positions)[:, 1])
        draws = training_draws(self.state.settings, seeds, text_dropout=self.config.text_dropout)
        return training_batch(train.image[rows], TextFeatures(train.text[rows]), draws)

    def validate(self, model: Any, step: int) -> Sequence[Event]:
        """Judge the prior on held-out pairs by the number of sampling steps, in the precision of later use."""
        state, config = self.state, self.config
        blocks = [int(clip["embed_dim"]) for clip in state.clips]
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            state.reports = report_by_steps(
                model, state.held_out, config.validation, block_dims=blocks, seed=config.seed
            )
        picture = Picture("held_out_by_sampling_steps", plot_reports(state.reports), step)
        return [Metrics(as_metrics(state.reports), step), picture]

    def save(self, model: Any, output: Output) -> None:
        """Write the prior, whole in itself (weights, Gaussians, scales, settings, the CLIP it belongs to), and how the
        last validation judged it.
        """
        reports = {f"steps_{steps}": report for steps, report in self.state.reports.items()}
        content = {"pairs": len(self.state.held_out), "guidance_scale": self.config.validation.guidance_scale}
        output.write_json(VALIDATION, content | {"by_steps": reports})
        save_model(output, FOLDER, model, {"model": model.settings.to_json(), "clip": self.state.clips})


def prior_settings(config: DiffusionPriorConfig, *, num_gaussians: int, embed_dim: int) -> DiffusionPriorSettings:
    """Return the model's settings, as the section and the data say."""
    return DiffusionPriorSettings(
        kind="shifted" if isinstance(config, ShiftedPriorConfig) else "gaussian",
        embed_dim=embed_dim,
        num_gaussians=num_gaussians,
        schedule=ScheduleSettings(**config.schedule.model_dump()),
        network=config.network.settings(),
    )


@dataclass
class _State:
    """What a task holds in a training process."""

    train: Pairs
    held_out: Pairs
    clips: list[dict[str, Any]]
    order: SampleOrder
    bank: GaussianBank
    settings: DiffusionPriorSettings
    reports: Reports = field(default_factory=dict)
