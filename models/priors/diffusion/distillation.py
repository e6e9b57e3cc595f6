"""A prior of few steps made of one of many: progressive distillation, in a single round.

Papers: Progressive Distillation for Fast Sampling of Diffusion Models (arXiv 2202.00512), algorithm 2, whose teacher
takes 2 steps for one of the student's, halving them round by round; here it takes all of them at once. On Distillation
of Guided Diffusion Models (arXiv 2210.03142), section 3.1, for the guidance that the student takes over, with one
fixed scale.

The teacher's sampler is deterministic (DDIM, arXiv 2010.02502, eq. 12; on the path flow: Euler's method). Its
``teacher_steps`` steps are cut into ``num_steps`` parts of equal length, of which each becomes one step of the student.
From z_t ~ q(z_t | z_0) at the beginning t of a part, the teacher goes to its end r, and the student learns, with the
loss of its teacher, the x by which a single step of DDIM leads there:

    x = Sigma^(1/2) (u_r - (b_r / b_t) u_t) / (a_r - (b_r / b_t) a_t) + mu                (algorithm 2, x~)

together with the eps that makes z_t of it. In the last part r = 0, and x is the teacher's own sample.

Why not round by round, or by consistency (arXiv 2303.01469): the network reads a caption once, and a further pass of
the teacher costs its four last tokens alone, so that a whole part is cheaper than the student's gradient. Every target
is the first teacher's: no round adds an error to that of the one before it, no target depends on a student that still
changes, and the only state is the student's weights, so that an interrupted training goes on as it was. A prior that
predicts the noise has no good student: near T its error is divided by a_t (section 4 there).

Symbols: a_t, b_t, u as in :mod:`models.diffusion.processes`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.diffusion.processes import Gaussian, Process, Times
from models.diffusion.targets import noise_from_target
from models.noise import SeededNoise
from models.priors.base import Embeddings
from models.priors.diffusion.model import DiffusionPrior
from models.priors.diffusion.spec import DistilledSpec, ProcessPriorSpec
from models.priors.spec import PriorSampling
from models.priors.text import TextFeatures
from models.priors.training import text_of


def distillation_random_inputs(
    spec: ProcessPriorSpec, seeds: Sequence[int], *, text_dropout: float
) -> dict[str, Tensor]:
    """Sample all random numbers of one pass on the CPU, each sample's from its own seed.

    drop_text  bool [batch], captions to leave out
    part       int64 [batch], which of the student's steps, from the noise on
    noise      float32 [batch, embed], standard normal
    """
    assert spec.distilled is not None
    streams = SeededNoise(seeds)
    uniform = streams.uniform((2,), dtype=torch.float64)  # [batch, 2]
    return {
        "drop_text": uniform[:, 1] < text_dropout,
        "part": (uniform[:, 0] * spec.distilled.num_steps).long(),
        "noise": streams.normal((spec.embed_dim,)),
    }


class Distillation(nn.Module):
    """Training of a student; its state is the student's, and the teacher is given anew whenever it is built."""

    times: Tensor
    """Those of the teacher's steps, from T (path flow: 1) down to 0: [teacher_steps + 1]."""

    def __init__(self, teacher: DiffusionPrior, distilled: DistilledSpec) -> None:
        """Begin with a student that is the teacher itself; the Gaussians stay as they are."""
        super().__init__()
        self._teacher = (teacher.eval().requires_grad_(False),)  # in a tuple: no part of the state
        self._part_length = distilled.teacher_steps // distilled.num_steps
        self._sampling = PriorSampling(guidance_scale=distilled.guidance_scale)
        self.student: DiffusionPrior = replace(teacher.spec, distilled=distilled).build()
        self.student.load_state_dict(copy.deepcopy(teacher.state_dict()))
        self.student.bank.requires_grad_(False)
        steps = teacher.process.steps(distilled.teacher_steps)
        self.register_buffer("times", torch.tensor([*(t for t, _ in steps), steps[-1][1]]), persistent=False)

    def _apply(self, fn, recurse: bool = True) -> "Distillation":  # type: ignore[no-untyped-def]  # as torch has it
        """Move the teacher along."""
        self._teacher[0]._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return "loss" of each sample: [batch].

        The batch holds what :func:`models.priors.training.training_batch` puts together, with the numbers of
        :func:`distillation_random_inputs`.
        """
        text, student, noise = text_of(batch), self.student, batch["noise"].float()
        index, mean, std = student.source(text)
        gaussian, t = Gaussian(mean.detach(), std.detach()), self.times[batch["part"] * self._part_length]
        z_t = student.process.diffuse(batch["image_embedding"].float(), t, gaussian, noise)
        x, eps = self.target(z_t, batch["part"], text, drop_text=batch["drop_text"])
        pair = {**batch, "image_embedding": x, "noise": eps, "time": t}
        return {"loss": student.denoising_loss(pair, text, index, gaussian)}

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the teacher's cache of captions would be compiled anew
    @torch.no_grad()
    def target(
        self, z_t: Embeddings, part: Times, text: TextFeatures, *, drop_text: Tensor
    ) -> tuple[Embeddings, Embeddings]:
        """Return x and eps, which the student is to predict at z_t, the beginning of a part."""
        teacher, process = self._teacher[0], self._teacher[0].process
        index, mean, std = teacher.source(text)
        gaussian, first = Gaussian(mean, std), part * self._part_length
        predict = teacher.predictor(text, index, gaussian, self._sampling, drop_text=drop_text)
        z = z_t
        for step in range(self._part_length):
            t, s = self.times[first + step], self.times[first + step + 1]
            x = predict(z, t)
            eps = noise_from_target(process, "sample", x, z, t, gaussian=gaussian)
            z, _ = process.ddim(x, eps, t, s, gaussian)
        t, r = self.times[first], self.times[first + self._part_length]
        x = one_step_sample(process, z_t, z, t, r, gaussian=gaussian)
        return x, noise_from_target(process, "sample", x, z_t, t, gaussian=gaussian)


def one_step_sample(
    process: Process, z_t: Embeddings, z_r: Embeddings, t: Times, r: Times, *, gaussian: Gaussian
) -> Embeddings:
    """Return the x_0 with which one step of DDIM leads from z_t to z_r, r < t (see the head of the module)."""
    (a_t, b_t), (a_r, b_r) = process.scales(t, z_t), process.scales(r, z_t)
    kept = b_r / b_t
    return gaussian.colour((gaussian.whiten(z_r) - kept * gaussian.whiten(z_t)) / (a_r - kept * a_t))
