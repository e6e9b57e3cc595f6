"""Whether embeddings, Gaussians and configuration belong together; asked before any training process starts."""

from models.priors.spec import TEXT_ENCODERS
from stages.contract.errors import ArtifactError, InputFault
from stages.formats.clips import Clips, read_clips, require_same_clips
from stages.formats.embeddings.layout import read_text_encoders
from stages.formats.gaussians import gaussians_clips, gaussians_shape
from stages.storage.artifact import Artifact
from stages.train_prior.config import ANY_WIDTH, PriorConfig, TrainedPriorConfig
from stages.train_prior.data import Pairs


def text_state_names(config: PriorConfig, embeddings: Artifact) -> list[str]:
    """Return the encoders whose text states the prior reads, in the order t5, clip (see ``text_states``)."""
    if not isinstance(config, TrainedPriorConfig):
        return []
    wanted = read_text_encoders(embeddings) if config.text_states is None else config.text_states
    return [name for name in TEXT_ENCODERS if name in wanted]


def text_width(clips: Clips) -> int | None:
    """Return the width of text embeddings where they are of another space than the images'; None: of one."""
    return None if clips.is_one_space else clips.text_dim


def check_inputs(config: PriorConfig, pairs: Pairs, embeddings: Artifact, gaussians: Artifact | None) -> None:
    """Compare what the prior is to be made of."""
    clips = read_clips(embeddings)
    embed_dim, expected = pairs.image.shape[1], clips.embed_dim
    if embed_dim != expected:
        raise InputFault(
            f"train_prior: the embeddings in {embeddings.uri} have {embed_dim} dimensions, but their CLIP models "
            f"{clips} give {expected}: expected the same: delete that folder and embed again"
        )
    if gaussians is not None:
        _check_gaussians(gaussians, clips, embed_dim)
    try:
        config.spec(embed_dim=ANY_WIDTH, text_dim=text_width(clips)).require_pairs(len(pairs), embed_dim)
    except ValueError as error:
        raise InputFault(f"train_prior.{error}") from error


def _check_gaussians(gaussians: Artifact, clips: Clips, embed_dim: int) -> None:
    require_same_clips("train_prior", gaussians_clips(gaussians), clips, "fit the Gaussians anew on these embeddings")
    num_gaussians, width = gaussians_shape(gaussians)
    if width != embed_dim:
        raise ArtifactError(
            f"train_prior: the {num_gaussians} Gaussians in {gaussians.uri} have {width} dimensions, but the "
            f"embeddings {embed_dim}: expected the same: fit them anew on these embeddings"
        )
