"""The bank of k Gaussians that shifted diffusion starts from.

Paper: Shifted Diffusion for Text-to-image Generation (CVPR 2023, arXiv 2211.15388), sections 3.1 and 3.2;
method eqs. 4 and 5.

Symbols:
    mu_j       mean of the embeddings assigned to Gaussian j             [k, embed]
    sigma_j    their standard deviation in each dimension                [k, embed]
    kappa      factor on the standard deviations
    Sigma_j    diag((kappa sigma_j)^2), the covariance of Gaussian j; only its square root is ever needed
    c_y        index of the Gaussian that belongs to caption y           [batch]
    e_y        text embedding of caption y, of the images' space or of another one   [batch, text]

Where texts are of another space than images, a cosine of mu_j and e_y means nothing. The captioned images then say
which texts belong to a Gaussian: c_y = argmax_j cos(t_j - t, e_y - t), with t_j the mean of the captions whose images
are nearest to mu_j, and t that of all captions. A Gaussian without such captions is never chosen.

Learnable Gaussians are mu_j = mu0_j + sigma0_j delta_j and sigma_j = sigma0_j exp(rho_j), with mu0, sigma0 the fitted
ones and delta, rho the parameters, zero at first. So weight decay pulls them to the fitted Gaussians (not to zero), a
step of the optimiser is a step in units of sigma0, and parameters in half precision round only the offsets.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from models.buffers import ExactBuffers

Selection = Literal["means", "samples"]

NUM_SELECTION_SAMPLES = 16
KAPPAS = (0.1, 100.0)
_SELECTION_SEED = 20221115
_ROWS_AT_ONCE = 65_536


class GaussianBank(ExactBuffers):
    """k Gaussians with diagonal covariances; all that defines them is in the state and so travels with checkpoints."""

    means: Tensor
    stds: Tensor
    kappa: Tensor
    selection_noise: Tensor
    text_centre: Tensor  # t: [text]
    text_directions: Tensor  # t_j - t, of length 1: [k, text]
    text_counts: Tensor  # captions of each Gaussian: [k]

    def __init__(
        self,
        means: Float[Tensor, "gauss embed"],
        stds: Float[Tensor, "gauss embed"],
        *,
        kappa: float,
        learnable: bool = False,
        selection: Selection = "means",
        text_dim: int | None = None,
    ) -> None:
        """Hold copies of the Gaussians; ``text_dim`` is the width of texts of another space (:meth:`learn_texts`)."""
        super().__init__()
        _require_gaussians(means, stds, kappa)
        if selection not in ("means", "samples"):
            raise ValueError(f"GaussianBank: selection is {selection!r}: allowed are means and samples")
        self.learnable = learnable
        self.selection, self.text_dim = selection, text_dim
        self.register_buffer("means", means.detach().clone().float())
        self.register_buffer("stds", stds.detach().clone().float())
        self.register_buffer("kappa", torch.tensor(float(kappa)))
        if learnable:
            self.mean_offset = nn.Parameter(torch.zeros_like(self.means))
            self.log_scale = nn.Parameter(torch.zeros_like(self.stds))
        if selection == "samples":
            generator = torch.Generator("cpu").manual_seed(_SELECTION_SEED)
            noise = torch.randn(NUM_SELECTION_SAMPLES, means.shape[1], generator=generator, device="cpu")
            self.register_buffer("selection_noise", noise.to(means.device))
        if text_dim is not None:
            self.register_buffer("text_centre", torch.zeros(text_dim, device=means.device))
            self.register_buffer("text_directions", torch.zeros(len(means), text_dim, device=means.device))
            self.register_buffer("text_counts", torch.zeros(len(means), device=means.device))

    @classmethod
    def standard(cls, embed_dim: int) -> "GaussianBank":
        """Return the bank of the baseline (DALL-E 2): one Gaussian with mu = 0 and Sigma = I."""
        return cls.isotropic(embed_dim, 1.0)

    @classmethod
    def isotropic(cls, embed_dim: int, std: float) -> "GaussianBank":
        """Return the bank of one Gaussian with mu = 0 and Sigma = std^2 I: the baseline with another noise scale."""
        return cls(torch.zeros(1, embed_dim), torch.full((1, embed_dim), float(std)), kappa=1.0)

    @classmethod
    def blank(
        cls,
        num_gaussians: int,
        embed_dim: int,
        *,
        learnable: bool = False,
        selection: Selection = "means",
        text_dim: int | None = None,
    ) -> "GaussianBank":
        """Return a bank of this size to load a saved state into."""
        means, stds = torch.zeros(num_gaussians, embed_dim), torch.ones(num_gaussians, embed_dim)
        return cls(means, stds, kappa=1.0, learnable=learnable, selection=selection, text_dim=text_dim)

    def variant(self, *, learnable: bool, selection: Selection) -> "GaussianBank":
        """Return a bank of these Gaussians, as they now are, that learns or chooses otherwise."""
        return self._changed(float(self.kappa), learnable=learnable, selection=selection)

    def widened(self, kappa: float) -> "GaussianBank":
        """Return a bank of these Gaussians, as they now are, with another kappa; it does not learn."""
        return self._changed(kappa, learnable=False, selection=self.selection)

    def _changed(self, kappa: float, *, learnable: bool, selection: Selection) -> "GaussianBank":
        means, stds = self.gaussians()
        options: dict[str, Any] = {"learnable": learnable, "selection": selection, "text_dim": self.text_dim}
        bank = GaussianBank(means, stds, kappa=kappa, **options)
        if self.text_dim is not None:
            for name in ("text_centre", "text_directions", "text_counts"):
                bank.get_buffer(name).copy_(self.get_buffer(name))
        return bank

    @property
    def lacks_texts(self) -> bool:
        """Whether texts are of another space, and none have been learned: images stand for them."""
        return self.text_dim is not None and not bool(self.text_counts.any())

    @torch.no_grad()
    def learn_texts(self, images: Float[Tensor, "captions embed"], texts: Float[Tensor, "captions text"]) -> None:
        """Take the texts that each Gaussian is chosen by: those of the images that are nearest to it.

        Row i of ``images`` is the image of caption i.
        """
        counts = torch.zeros(self.num_gaussians, dtype=torch.float64)
        sums = torch.zeros(self.num_gaussians, texts.shape[1], dtype=torch.float64)
        for image, text in zip(torch.split(images, _ROWS_AT_ONCE), torch.split(texts, _ROWS_AT_ONCE), strict=True):
            owners = self.select_images(image)
            counts += torch.bincount(owners, minlength=len(counts))
            sums.index_add_(0, owners, text.double())
        centre = sums.sum(0) / counts.sum()
        self.text_centre.copy_(centre)
        self.text_directions.copy_(F.normalize(sums - counts[:, None] * centre, dim=-1))
        self.text_counts.copy_(counts)

    @property
    def num_gaussians(self) -> int:
        """How many Gaussians the bank holds (k)."""
        return len(self.means)

    @property
    def embed_dim(self) -> int:
        """Width of an embedding."""
        return self.means.shape[1]

    def forward(
        self, embeddings: Float[Tensor, "batch text"], *, of_images: bool = False
    ) -> tuple[Int[Tensor, "batch"], Float[Tensor, "batch embed"], Float[Tensor, "batch embed"]]:
        """Return c_y, and mu and Sigma^(1/2) of the Gaussians chosen; float32, in whatever precision one trains.

        The embeddings are those of the captions or, ``of_images``, of images that stand for them.

        Training goes through here, and not through the parts below: sharded parameters (ZeRO 3) are whole only while
        their module runs. Whoever calls it has looked at the embeddings; to look again would make a GPU wait.
        """
        with torch.autocast(self.means.device.type, enabled=False):
            index = self.select_images(embeddings) if of_images else self._nearest(embeddings)
            return index, *self.moments(index)

    def select(self, text_embeddings: Float[Tensor, "batch text"]) -> Int[Tensor, "batch"]:
        """Return c_y = argmax_j cos(mu_j, f_txt(y)) (method eq. 5); ties go to the lowest index.

        Texts of another space are compared with the texts of :meth:`learn_texts` instead.

        With selection by samples, the cosine is averaged over 16 samples of N(mu_j, diag(sigma_j^2)), which are always
        the same ones (the same standard normal numbers for all j, in the state). They are taken without kappa, which
        widens the noise of the process and not the embeddings' spread.

        Raises:
            ValueError: an embedding is not finite, or so long that float32 has no number for its length.
        """
        bad = int((~text_embeddings.float().norm(dim=-1).isfinite()).sum())
        if bad:
            raise ValueError(
                f"GaussianBank.select: {bad} of {len(text_embeddings)} text embeddings hold numbers that are not "
                "finite, or too large for their length in float32: expected finite ones: embed the captions again"
            )
        return self._nearest(text_embeddings)

    def select_images(self, image_embeddings: Float[Tensor, "batch embed"]) -> Int[Tensor, "batch"]:
        """Return the Gaussian that each image belongs to: argmax_j cos(mu_j, z); ties go to the lowest index."""
        with torch.autocast(self.means.device.type, enabled=False), torch.no_grad():
            image = F.normalize(image_embeddings.float(), dim=-1)
            return (image @ self._directions().T).argmax(-1)

    def _nearest(self, text_embeddings: Float[Tensor, "batch text"]) -> Int[Tensor, "batch"]:
        if self.num_gaussians == 1:
            return torch.zeros(len(text_embeddings), dtype=torch.long, device=self.means.device)
        if self.text_dim is None:
            return self.select_images(text_embeddings)
        with torch.autocast(self.means.device.type, enabled=False), torch.no_grad():
            text = F.normalize(text_embeddings.float() - self.text_centre, dim=-1)
            cosines = text @ self.text_directions.T
            return cosines.masked_fill(self.text_counts == 0, -torch.inf).argmax(-1)

    def moments(self, index: Int[Tensor, "batch"]) -> tuple[Float[Tensor, "batch embed"], Float[Tensor, "batch embed"]]:
        """Return mu and Sigma^(1/2) = kappa sigma of the Gaussians named by the index."""
        means, stds = self.gaussians()
        return means[index], self.kappa * stds[index]

    def gaussians(self) -> tuple[Float[Tensor, "gauss embed"], Float[Tensor, "gauss embed"]]:
        """Return mu_j and sigma_j of all Gaussians, as fitted or as learned."""
        if not self.learnable:
            return self.means, self.stds
        return self.means + self.stds * self.mean_offset.float(), self.stds * self.log_scale.float().exp()

    def _directions(self) -> Float[Tensor, "gauss embed"]:
        """Return what a text direction is multiplied by to give its (mean) cosine with each Gaussian."""
        means, stds = self.gaussians()
        if self.selection == "means":
            return F.normalize(means, dim=-1)
        total = torch.zeros_like(means)
        for noise in self.selection_noise:
            total += F.normalize(means + stds * noise, dim=-1)
        return total / len(self.selection_noise)


def _require_gaussians(means: Tensor, stds: Tensor, kappa: float) -> None:
    if means.ndim != 2 or means.shape != stds.shape or not len(means):
        raise ValueError(
            f"GaussianBank: means {list(means.shape)} and stds {list(stds.shape)} must both be [k, embed], k >= 1"
        )
    if means.is_meta:
        return  # shapes alone, to count
    if not KAPPAS[0] <= kappa <= KAPPAS[1]:
        raise ValueError(
            f"GaussianBank: found kappa {kappa}: expected {KAPPAS[0]} to {KAPPAS[1]}, beyond which sampling starts "
            "without noise or in noise alone: choose another"
        )
    finite = bool(torch.isfinite(means.float().norm(dim=1)).all() and torch.isfinite(stds.float()).all())
    if not (finite and (stds > 0).all()):
        raise ValueError(
            "GaussianBank: found means or stds that are not finite (or means too large for their length in float32), "
            f"or a smallest std, {float(stds.min())}, that is not above 0: expected finite means and positive stds: "
            "fit the Gaussians again on finite embeddings"
        )
