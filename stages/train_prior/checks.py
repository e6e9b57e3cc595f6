"""Whether embeddings, Gaussians and configuration belong together; asked before any training process starts."""

from collections.abc import Sequence
from typing import Any

from safetensors import safe_open

from models.priors.spec import TEXT_ENCODERS
from stages.contract.errors import ArtifactError, InputFault
from stages.formats.embeddings import clip_identity, text_state_identities
from stages.storage.artifact import Artifact
from stages.train_prior.config import AutoregressivePriorConfig, PriorConfig, TrainedPriorConfig
from stages.train_prior.data import Pairs

GAUSSIANS = "gaussians.safetensors"
FIT = "fit.json"


def text_state_names(config: PriorConfig, embeddings: Artifact) -> list[str]:
    """Return the encoders whose text states the prior reads, in the order t5, clip (see ``text_states``)."""
    if not isinstance(config, TrainedPriorConfig):
        return []
    wanted = text_state_identities(embeddings) if config.text_states is None else config.text_states
    return [name for name in TEXT_ENCODERS if name in wanted]


def check_inputs(config: PriorConfig, pairs: Pairs, embeddings: Artifact, gaussians: Artifact | None) -> None:
    """Compare what the prior is to be made of.

    Raises:
        InputFault: the embeddings have not the width of their CLIP models, or there are too few for the configuration.
        ArtifactError: the Gaussians are of other embeddings.
    """
    clips = clip_identity(embeddings)
    embed_dim, expected = pairs.image.shape[1], sum(int(clip["embed_dim"]) for clip in clips)
    if embed_dim != expected:
        raise InputFault(
            f"train_prior: the embeddings in {embeddings.uri} have {embed_dim} dimensions, but their CLIP models "
            f"{_format(clips)} give {expected}: expected the same: delete that folder and embed again"
        )
    if gaussians is not None:
        _check_gaussians(gaussians, clips, embed_dim)
    most = min(len(pairs) - 1, embed_dim)  # so many directions do the pairs span
    if isinstance(config, AutoregressivePriorConfig) and config.num_components > most:
        raise InputFault(
            f"train_prior.num_components: found {config.num_components} with {len(pairs)} training pairs of "
            f"{embed_dim} dimensions: allowed is at most {most}, less than the pairs and no more than the dimensions: "
            "lower num_components, or give more captions"
        )


def _check_gaussians(gaussians: Artifact, clips: Sequence[dict[str, Any]], embed_dim: int) -> None:
    fitted = gaussians.read_json(FIT).get("clip", [])
    if [clip["digest"] for clip in fitted] != [clip["digest"] for clip in clips]:
        raise ArtifactError(
            f"train_prior: the Gaussians in {gaussians.uri} were fitted on embeddings of CLIP {_format(fitted)}, but "
            f"the embeddings are of CLIP {_format(clips)}: expected the same weights: fit them anew on these embeddings"
        )
    with safe_open(gaussians.local(GAUSSIANS), framework="pt") as file:
        shape = file.get_slice("means").get_shape()
    if shape[1] != embed_dim:
        raise ArtifactError(
            f"train_prior: the {shape[0]} Gaussians in {gaussians.uri} have {shape[1]} dimensions, but the embeddings "
            f"{embed_dim}: expected the same: fit them anew on these embeddings"
        )


def _format(clips: Sequence[dict[str, Any]]) -> str:
    return " + ".join(f"{clip['reference']} ({clip['digest'][:8]})" for clip in clips) or "(not recorded)"
