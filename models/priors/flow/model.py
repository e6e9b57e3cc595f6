"""The flow prior: straight lines from a source to the image embeddings, followed by an ordinary differential equation.

Papers: Flow Straight and Fast (arXiv 2209.03003), eq. 1; Shifted Diffusion (arXiv 2211.15388), section 3.1, for the
caption's Gaussian as the source; CrossFlow (arXiv 2412.15213), section 3, for the caption itself.

With x_1 = mu_y + Sigma^(1/2) eps the source of caption y, x_t = (1 - t) z_0 + t x_1, and the network learns
v = d u_t / dt in whitened coordinates (:mod:`models.diffusion.targets`) or z_0. Sources differ in mu_y and Sigma alone:

    noise      mu_y = 0                                Sigma = (s sigma)^2 I
    gaussian   mu_y = mu of the caption's Gaussian     Sigma = diag((kappa sigma_c)^2), as strong as noise
    text       mu_y = m + S (f_txt(y) - m_txt) / S_txt     Sigma = (s S)^2

where m, S and m_txt, S_txt are mean and standard deviations (by dimension) of the training images and captions, sigma
the root mean square of S, and s = ``noise_scale``. CrossFlow learns its text source as a variational encoder; here text
and image embeddings are of one space, so that matching the first two moments by dimension is enough.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from models.diffusion.processes import Flow, Process
from models.diffusion.schedules import dimension_shift, logit_normal_times
from models.gaussians.bank import GaussianBank
from models.priors.base import Captions, Rows
from models.priors.diffusion.model import DiffusionPrior, fitted_bank, rms_std, scaled_bank
from models.priors.flow.spec import FlowPriorSpec
from models.priors.text import TextFeatures


class FlowPrior(DiffusionPrior):
    """A prior by flow matching; its source and statistics are in its state."""

    spec: FlowPriorSpec

    @staticmethod
    def make_process(spec: Any) -> Process:
        """Return the straight path, its times shifted as the spec says."""
        shift = 1.0 if spec.base_dims is None else dimension_shift(spec.embed_dim, spec.base_dims)
        return Flow(spec.process, shift=shift)

    @staticmethod
    def make_bank(
        spec: Any, images: Rows, texts: Captions, fitted: tuple[Tensor, Tensor] | None, captioned: Rows | None = None
    ) -> GaussianBank:
        """Return the Gaussians of the source; that of source text is not read."""
        if spec.source != "gaussian":
            return GaussianBank.isotropic(spec.embed_dim, spec.noise_scale * rms_std(images))
        if fitted is None:
            raise ValueError("prior of kind flow, source gaussian: found no fitted Gaussians: expected some: fit them")
        bank = fitted_bank(spec, fitted, texts, captioned, kappa=1.0)
        return scaled_bank(bank, spec.noise_scale, images, texts)

    @staticmethod
    def sample_times(spec: Any, uniform: Float[Tensor, " batch"]) -> Tensor:
        """Return times in [0, 1], shifted like those of sampling."""
        times = logit_normal_times(uniform) if spec.times == "logit_normal" else uniform
        return FlowPrior.make_process(spec).time(times).float()

    def source(self, text: TextFeatures) -> tuple[Tensor, Tensor, Tensor]:
        """Return c_y, and mu_y and Sigma^(1/2) of each caption's source."""
        if self.spec.source != "text":
            return super().source(text)
        images = self.image_scale
        mean = images.mean + images.std * self.text_scale.normalize(text.embedding)
        index = torch.zeros(len(text), dtype=torch.long, device=mean.device)
        return index, mean, (self.spec.noise_scale * images.std).expand_as(mean)
