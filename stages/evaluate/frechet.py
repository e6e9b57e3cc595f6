"""Fréchet and kernel distances between generated and true images, under features whose network is named.

|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), both sets taken as Gaussian (Heusel et al., arXiv 1706.08500, eq. 6).
It is biased: the fewer the images, the larger, so compare equal numbers of images under the same network only; what
two halves of the true images have stands beside it. The kernel distance (KID) has no such bias.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from models.similarity import kid
from stages.contract.errors import InputFault
from stages.formats.images import decode_image, square
from stages.formats.tensor_files import read_tensors

FEWEST = 2
INCEPTION_FEATURES = 2048
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
Images = UInt8[np.ndarray, "batch height width 3"]


class _Given(nn.Module):
    """Features that were made elsewhere."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, rows: Tensor) -> Tensor:
        return rows


def distance_of_rows(generated: Float[Tensor, "rows embed"], true: Float[Tensor, "others embed"]) -> float:
    """Return the distance between two sets of features, of at least two rows each."""
    metric = FrechetInceptionDistance(feature=_Given(generated.shape[1]))
    metric.update(generated.double(), real=False)
    metric.update(true.double(), real=True)
    return float(metric.compute())


def _inception(weights: Path) -> FrechetInceptionDistance:
    """Load the network from a copy of the file's tensors, as torch-fidelity itself would run what the file pickles."""
    with tempfile.TemporaryDirectory(prefix="corgi-inception-") as folder:
        copy = Path(folder) / "inception.pth"
        torch.save(read_tensors(weights), copy)
        return FrechetInceptionDistance(feature=INCEPTION_FEATURES, feature_extractor_weights_path=str(copy))


def distances(generated: Float[Tensor, "rows embed"], true: Float[Tensor, "others embed"]) -> dict[str, float]:
    """Return the Fréchet distance, what two halves of the true rows have (its bias), and the unbiased kernel one."""
    figures = {"frechet_distance": distance_of_rows(generated, true), "kernel_distance": float(kid(generated, true))}
    if len(true) >= 2 * FEWEST:
        even = len(true) // 2 * 2
        figures["frechet_distance/true_halves"] = distance_of_rows(true[0:even:2], true[1:even:2])
    return figures


class Inception:
    """Inception-v3's pool features, under which published figures (FID, KID) are measured."""

    def __init__(self, weights: Path, device: torch.device | str) -> None:
        try:
            metric = _inception(weights).to(device)
        except Exception as error:  # whatever is wrong with the file, torch has a kind of error of its own for it
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputFault(
                f"evaluate.features.path: {weights} cannot be used ({reason}): expected the weights that "
                "torch-fidelity publishes, pt_inception-2015-12-05-6726825d.pth: give that file, or choose kind: clip"
            ) from error
        self._network, self._device = metric.inception, device

    @torch.no_grad()
    def __call__(self, batches: Iterator[Images]) -> Float[Tensor, "rows embed"]:
        """Return the features of all images."""
        rows = []
        for images in batches:
            features: Tensor = self._network(torch.from_numpy(images).permute(0, 3, 1, 2).to(self._device))
            rows.append(features.cpu())
        return torch.cat(rows)


def read_folder(folder: Path, resolution: int, batch_size: int) -> Iterator[Images]:
    """Yield all images of a folder, and of those in it, as middle squares of one resolution."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if len(files) < FEWEST:
        raise InputFault(
            f"evaluate.real: {folder} holds {len(files)} images ({', '.join(IMAGE_SUFFIXES)}): allowed are "
            f"{FEWEST} or more: give a folder of true images"
        )
    for start in range(0, len(files), batch_size):
        yield np.stack([_read(path, resolution) for path in files[start : start + batch_size]])


def batches_of(images: Images, batch_size: int) -> Iterator[Images]:
    """Cut images into batches."""
    for start in range(0, len(images), batch_size):
        yield images[start : start + batch_size]


def _read(path: Path, resolution: int) -> UInt8[np.ndarray, "height width 3"]:
    image = decode_image(path.read_bytes(), where=f"evaluate.real, {path}", smallest_side=resolution)
    return square(image, resolution)
