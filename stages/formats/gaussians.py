"""The Gaussians that fit_gaussians makes, and how they were fitted; writer and readers."""

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from stages.contract.documents import Document
from stages.contract.errors import ArtifactError, DamagedFile
from stages.contract.parsing import parsing
from stages.formats.clips import ClipIdentity, Clips
from stages.storage.artifact import Artifact, Output
from stages.storage.folder import CHECKPOINTS

if TYPE_CHECKING:
    from models.gaussians.kmeans import FittedGaussians, KMeansState

_GAUSSIANS = "gaussians.safetensors"
_STATE = f"{CHECKPOINTS}/state.json"
_log = logging.getLogger(__name__)


class GaussianFit(Document):
    """How the Gaussians were fitted, and of which CLIP models the embeddings were."""

    file = "fit.json"

    clip: tuple[ClipIdentity, ...]
    method: str
    kind: str
    num_gaussians: int
    embeddings: int
    """How many there were."""
    sample_size: int
    seed: int
    iterations: int
    converged: bool
    inertias: tuple[float, ...]
    counts: tuple[int, ...]
    grown_from: str | None = None
    """Fingerprint of the fit whose means this one began with; None: it began with a sample."""
    embeddings_at_first: int | None = None
    """Of the last fit before it that began with a sample; None: it is that fit itself."""


@dataclass(frozen=True)
class StoredGaussians:
    """The arrays of the Gaussians: without torch, as the driver of a run reads them for its report."""

    means: Float[np.ndarray, "gauss embed"]
    stds: Float[np.ndarray, "gauss embed"]
    counts: Int[np.ndarray, "gauss"]


def write_gaussians(output: Output, fitted: "FittedGaussians", fit: GaussianFit) -> None:
    """Write the Gaussians and how they were fitted; both say of which CLIP models the embeddings were."""
    from safetensors.torch import save_file

    tensors = {"means": fitted.means, "stds": fitted.stds, "counts": fitted.counts}
    clips = json.dumps([clip.to_json() for clip in fit.clip], sort_keys=True)
    with output.writing(_GAUSSIANS) as path:
        save_file(tensors, path, metadata={"clip": clips})
    fit.write(output)
    output.remove(CHECKPOINTS)


def read_gaussians(artifact: Artifact) -> StoredGaussians:
    """Return the Gaussians."""
    from safetensors.numpy import load_file

    with parsing(lambda reason: _unreadable(artifact, reason)):
        found = load_file(artifact.local(_GAUSSIANS))
        shapes = {name: array.shape for name, array in found.items()}
        means = shapes.get("means", ())
        if len(means) != 2 or shapes != {"means": means, "stds": means, "counts": means[:1]}:
            raise ValueError(f"tensors {shapes}")
        return StoredGaussians(**found)


def gaussians_shape(artifact: Artifact) -> tuple[int, int]:
    """Return the number of Gaussians and their dimensions."""
    from safetensors import safe_open

    with (
        parsing(lambda reason: _unreadable(artifact, reason)),
        safe_open(artifact.local(_GAUSSIANS), framework="np") as file,
    ):
        num_gaussians, embed_dim = file.get_slice("means").get_shape()
        return num_gaussians, embed_dim


def _unreadable(artifact: Artifact, reason: str) -> ArtifactError:
    return ArtifactError(
        f"fit_gaussians: {artifact.path(_GAUSSIANS)} cannot be read ({reason}): expected means and stds [Gaussians, "
        f"dimensions] and counts [Gaussians]: delete {artifact.uri} and run again"
    )


def gaussians_clips(artifact: Artifact) -> Clips:
    """Return of which CLIP models the embeddings were."""
    return Clips(GaussianFit.of(artifact).clip, f"the Gaussians in {artifact.uri}")


def write_kmeans_state(output: Output, state: "KMeansState") -> None:
    """Write a checkpoint of the fit under a name of its own, then its record, and delete the one before."""
    import torch
    from safetensors.torch import save_file

    before = output.glob(f"{CHECKPOINTS}/*.safetensors")
    name = f"{CHECKPOINTS}/state_{len(state.inertias):06d}.safetensors"
    with output.collecting():
        with output.writing(name) as path:
            inertias = torch.tensor(state.inertias, dtype=torch.float64)
            save_file({"means": state.means, "scale": state.scale, "inertias": inertias}, path)
        output.write_record(_STATE, {"file": name})
    for old in before:
        if old != name:
            output.remove(old)


def read_kmeans_state(output: Output) -> "KMeansState | None":
    """Return the newest checkpoint of the fit, if there is one; a damaged one is passed over, with a warning."""
    from safetensors.torch import load

    from models.gaussians.kmeans import KMeansState

    if not output.exists(_STATE):
        return None
    try:
        record = output.read_json(_STATE)
        with output.open(record["file"], record=_STATE) as file:  # read whole: it is used once, and needs no copy
            saved = load(file.read())
    except DamagedFile as error:
        _log.warning("%s: the fit begins anew", str(error).partition(": expected")[0])
        return None
    return KMeansState(saved["means"], saved["scale"], tuple(saved["inertias"].tolist()))
