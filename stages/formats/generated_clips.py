"""Of which CLIP models the embeddings are that images were generated from: those of the decoder."""

import logging

from stages.contract.documents import Manifest
from stages.formats.clips import Clips, clips_of_model, has_clips, read_clips, write_clips
from stages.formats.model_folders import DECODER, load_model_config, missing_files
from stages.formats.stored_models import store_of
from stages.storage.artifact import Artifact, Output

_STAGE = "train_decoder"
_log = logging.getLogger(__name__)


def write_generated_clips(output: Output, decoder: Artifact) -> None:
    """Write into the artifact of generate what its decoder says."""
    write_clips(output, _clips_of_decoder(decoder))


def are_normalised(generated: Artifact) -> bool:
    """Whether the embeddings that images were generated from are of encoders whose embeddings have length 1.

    Earlier versions did not write it: the decoder in the store says it; where that is gone, lengths count as raw ones.
    """
    if has_clips(generated):
        return read_clips(generated).normalised
    decoder = _decoder_of(generated)
    if decoder is None or missing_files(decoder, DECODER):
        _log.warning("%s: nothing says whether its embeddings were normalised: they count as raw", generated.uri)
        return False
    return _clips_of_decoder(decoder).normalised


def _clips_of_decoder(decoder: Artifact) -> Clips:
    return clips_of_model(load_model_config(decoder, DECODER), decoder, DECODER)


def _decoder_of(generated: Artifact) -> Artifact | None:
    """Return the decoder by which an artifact in a store was made; None: it does not say, or lies in no store."""
    store = store_of(generated)
    made_from = Manifest.of(generated).inputs if store is not None and generated.is_complete else {}
    fingerprint = made_from.get(_STAGE)
    if fingerprint is None:
        return None
    return Artifact(f"{store}/artifacts/{_STAGE}/{fingerprint}", _STAGE, fingerprint)
