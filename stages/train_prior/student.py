"""What the training of a distilled prior supplies to the training loop."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import torch

from models.fields import leaves
from models.priors.base import Prior
from models.priors.diffusion.distillation import Distillation, distillation_random_inputs
from models.priors.diffusion.model import DiffusionPrior
from models.priors.diffusion.spec import ProcessPriorSpec
from models.priors.registry import read_spec
from stages.contract.errors import InputFault
from stages.encoders.identity import digest_tensors
from stages.formats.clips import Clips, require_same_clips
from stages.inference.autoencoder import load_model
from stages.train_prior.config import TEACHER, SolvedPriorConfig
from stages.train_prior.task import FOLDER, PriorTask
from stages.training.config import TrainingConfig
from stages.training.task import RankInfo

_FREE = frozenset({"learned_from", "gradient_checkpointing"})  # what may change without changing what weights mean


class StudentTask(PriorTask):
    """Training of a prior of few steps on the pairs of its teacher."""

    config: SolvedPriorConfig
    teacher: DiffusionPrior

    def setup(self, rank_info: RankInfo) -> None:
        """Read the pairs and the teacher; every process holds all of both."""
        super().setup(rank_info)
        assert self.config.distillation is not None
        source, folder = self.config.distillation.elsewhere() or (self.output, f"{TEACHER}/{FOLDER}")
        self.teacher, found = load_model(source, folder, read_spec)
        if self.config.distillation.teacher is not None:
            self._require_same(found, Clips.parse(found.get("clip"), source, folder, owner="the teacher"))
        spec = self.teacher.spec
        self.state.spec = replace(spec, distilled=self.config.distillation.spec)

    def _require_same(self, found: dict[str, Any], clips: Clips) -> None:
        assert self.config.distillation is not None
        where = f"train_prior.distillation.teacher: {self.config.distillation.teacher}"
        require_same_clips(where, clips, self.state.clips, "name a prior that was trained on these embeddings")
        there, here = dict(leaves(found["model"])), dict(leaves(self.state.spec.to_dict()))
        odd = sorted(name for name in there | here if there.get(name) != here.get(name))
        if changed := [name for name in odd if name.rpartition(".")[2] not in _FREE]:
            name = changed[0]
            raise InputFault(
                f"{where}: {name} is {there.get(name)!r} there, and {here.get(name)!r} here: expected the same: set "
                "train_prior as it was when that prior was trained (extends: its experiment)"
            )

    def build_model(self) -> Distillation:  # type: ignore[override]
        """Make the student, which begins as its teacher."""
        assert self.config.distillation is not None
        return Distillation(self.teacher, self.config.distillation.spec)

    @property
    def text_dropout(self) -> float:
        """Fraction of the captions that are left out: none where the teacher's use for it was guidance alone."""
        return self.config.text_dropout if self.state.spec.is_unconditional else 0.0

    def is_without_captions(self, step: int) -> bool:
        """Tell whether a step learns from images alone."""
        return self.config.learned_from == "images"

    def random_inputs(self, seeds: Sequence[int], *, text_dropout: float) -> dict[str, torch.Tensor]:
        """Sample what a training pass takes beside the pairs."""
        assert isinstance(self.state.spec, ProcessPriorSpec)
        return distillation_random_inputs(self.state.spec, seeds, text_dropout=text_dropout)

    def prior_of(self, model: Any) -> Prior:
        """Return the student."""
        student: Prior = model.student
        return student

    @property
    def training(self) -> TrainingConfig:
        """The distillation, whose steps are counted from 0."""
        assert self.config.distillation is not None
        return self.config.distillation.own(self.config.training)

    def description(self) -> dict[str, Any]:
        """Return what is written beside the weights, with the digest of the teacher's weights."""
        return super().description() | {TEACHER: digest_tensors(self.teacher.to("cpu").state_dict(), sha256())}
