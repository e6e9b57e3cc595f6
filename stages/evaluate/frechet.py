"""Fréchet distances between drawn and true pictures, by torchmetrics, under features whose network is named.

|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), both sets taken as Gaussian (Heusel et al., arXiv 1706.08500, eq. 6).
It is biased: the fewer the pictures, the larger, so compare equal numbers of pictures under the same network only.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from stages.errors import InputFault
from stages.image_decoding import decode_image, square

FEWEST = 2
INCEPTION_FEATURES = 2048
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
Pictures = UInt8[np.ndarray, "batch height width 3"]


class _Given(nn.Module):
    """Features that were made elsewhere."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, rows: Tensor) -> Tensor:
        return rows


def distance_of_rows(drawn: Float[Tensor, "rows embed"], true: Float[Tensor, "others embed"]) -> float:
    """Return the distance between two sets of features, of at least two rows each."""
    metric = FrechetInceptionDistance(feature=_Given(drawn.shape[1]))
    metric.update(drawn.double(), real=False)
    metric.update(true.double(), real=True)
    return float(metric.compute())


def distance_by_inception(
    drawn: Iterator[Pictures], true: Iterator[Pictures], weights: Path, device: torch.device | str
) -> float:
    """Return the distance under Inception-v3's pool features, as published figures (FID) are measured.

    Raises:
        InputFault: the file holds no weights of that network.
    """
    try:
        metric = FrechetInceptionDistance(feature=INCEPTION_FEATURES, feature_extractor_weights_path=str(weights)).to(
            device
        )
    except Exception as error:  # whatever is wrong with the file, torch has a kind of error of its own for it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputFault(
            f"evaluate.features.path: {weights} cannot be used ({reason}): expected the weights that torch-fidelity "
            "publishes, pt_inception-2015-12-05-6726825d.pth: give that file, or choose kind: clip"
        ) from error
    for batches, real in ((drawn, False), (true, True)):
        for pictures in batches:
            metric.update(torch.from_numpy(pictures).permute(0, 3, 1, 2).to(device), real=real)
    return float(metric.compute())


def read_folder(folder: Path, resolution: int, batch_size: int) -> Iterator[Pictures]:
    """Yield all pictures of a folder, and of those in it, as middle squares of one resolution.

    Raises:
        InputFault: there are fewer than two, or one cannot be decoded.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    if len(files) < FEWEST:
        raise InputFault(
            f"evaluate.real: {folder} holds {len(files)} pictures ({', '.join(PICTURE_SUFFIXES)}): allowed are "
            f"{FEWEST} or more: give a folder of true pictures"
        )
    for start in range(0, len(files), batch_size):
        yield np.stack([_read(path, resolution) for path in files[start : start + batch_size]])


def batches_of(pictures: Pictures, batch_size: int) -> Iterator[Pictures]:
    """Cut pictures into batches."""
    for start in range(0, len(pictures), batch_size):
        yield pictures[start : start + batch_size]


def _read(path: Path, resolution: int) -> UInt8[np.ndarray, "height width 3"]:
    image = decode_image(path.read_bytes(), where=f"evaluate.real, {path}", smallest_side=resolution)
    return square(image, resolution)
