"""Load what the train_ stages made, and put it together to a text-to-image system."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from models.decoders.base import Decoder
from models.decoders.buckets import Size, chosen_size, size_name
from models.decoders.cascade import Cascade
from models.decoders.registry import read_spec as read_decoder_spec
from models.decoders.upsampler.model import Upsampler
from models.decoders.upsampler.spec import UpsamplerSpec
from models.priors.base import Prior
from models.priors.registry import read_spec as read_prior_spec
from stages.contract.errors import ArtifactError, InputFault
from stages.contract.parsing import parsing, shown
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import (
    ClipConfig,
    LanguageModelSource,
    Stored,
    StoredLanguageModel,
    StoredT5,
    T5Source,
    TextModel,
)
from stages.encoders.space import Encoders, make_encoders
from stages.encoders.text import STATE_ENCODERS, TextEncoder
from stages.formats.clips import Clips, clips_of_model, require_same_clips
from stages.formats.embeddings.layout import TextEncoderIdentity, TextEncoders, parse_text_encoders
from stages.formats.model_folders import DECODER, load_model_config
from stages.formats.stored_models import is_stored, model_in, store_of
from stages.inference.autoencoder import load_model
from stages.inference.index import LoadedIndex
from stages.inference.sampling import SamplingSettings
from stages.inference.text_to_image import TextToImageSystem, require_retrieval
from stages.storage.artifact import Artifact

PRIOR = "prior"
#: What the encoders of token states are read as, by name: a folder or name, and a folder in a store.
TEXT_MODELS: Mapping[str, tuple[type[TextModel], type[Stored]]] = {
    "t5": (T5Source, StoredT5),
    "language_model": (LanguageModelSource, StoredLanguageModel),
}
UPSAMPLER = "upsampler"


@dataclass(frozen=True)
class TrainedModels:
    """What a system is put together from."""

    clip: ClipConfig
    prior: Artifact
    decoder: Artifact
    upsamplers: Sequence[Artifact] = ()
    """The super-resolution models of a cascade, the smallest first."""
    text_models: Mapping[str, TextModel] = field(default_factory=dict)
    """Where those of the prior lie now, if they have moved."""
    index: LoadedIndex | None = None
    """The embeddings that are retrieved, where settings ask for that."""


_TRAIN_ALIKE = "their embeddings do not mean the same: train both with the same clip.models"


def load_prior(artifact: Artifact) -> tuple[Prior, Clips]:
    """Load a prior, and the identities of the CLIP models whose embeddings it makes."""
    prior, config = load_model(artifact, PRIOR, read_prior_spec)
    return prior, clips_of_model(config, artifact, PRIOR)


def load_decoder(artifact: Artifact, upsamplers: Sequence[Artifact] = ()) -> tuple[Decoder, Clips]:
    """Load a decoder, and the identities of the CLIP models whose embeddings it takes.

    With super-resolution models, the smallest first, it is a cascade that ends with them.
    """
    decoder, config = load_model(artifact, DECODER, read_decoder_spec)
    clips = clips_of_model(config, artifact, DECODER)
    if not upsamplers:
        return decoder, clips
    levels = [_load_upsampler(upsampler, clips) for upsampler in upsamplers]
    try:
        return Cascade(decoder, levels), clips
    except ValueError as error:
        raise ArtifactError(
            f"generate: the decoder and its super-resolution models do not follow one another ({error}): set "
            "from_resolution of each to the resolution of the one before it, and train it anew"
        ) from error


def size_names(artifact: Artifact) -> tuple[str, ...]:
    """Return the widths and heights of a decoder's images, such as 96x64, without loading it."""
    config = load_model_config(artifact, DECODER)
    with parsing(lambda reason: _unreadable(artifact, reason)):
        return tuple(map(size_name, read_decoder_spec(config["model"]).sizes))


def _unreadable(artifact: Artifact, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{artifact.path(DECODER)}: the decoder's configuration cannot be read ({reason}): expected one of this "
        f"version: delete the artifact {artifact.uri} and train anew"
    )


def _load_upsampler(artifact: Artifact, clips: Clips) -> Upsampler:
    upsampler, config = load_model(artifact, UPSAMPLER, UpsamplerSpec.from_dict)
    require_same_clips("generate", clips_of_model(config, artifact, UPSAMPLER), clips, _TRAIN_ALIKE)
    found: Upsampler = upsampler
    return found


def prior_text_encoders(artifact: Artifact) -> TextEncoders:
    """Return the identities of the encoders whose text states the prior reads, by name."""
    return parse_text_encoders(load_model_config(artifact, PRIOR).get("text_encoders", {}), artifact, PRIOR)


def find_text_models(prior: Artifact, moved: Mapping[str, TextModel]) -> dict[str, TextModel]:
    """Return the models whose states the prior reads, by name: where they lie now, as configured, else in the store."""
    identities = prior_text_encoders(prior)
    return {
        name: _find_text_model(name, identities[name], prior, moved.get(name))
        for name in TEXT_MODELS
        if name in identities
    }


def _find_text_model(name: str, identity: TextEncoderIdentity, prior: Artifact, moved: TextModel | None) -> TextModel:
    if moved is not None and (moved.folder is None or moved.folder.exists()):
        return moved
    outside, stored = TEXT_MODELS[name]
    with parsing(lambda reason: _lost(name, identity, prior, reason)):
        if "digest" not in identity.source:  # of a hub, or of a folder that an earlier version left where it was
            return moved or outside.model_validate(identity.source)
        found: Any = stored.model_validate({"store": store_of(prior), "path": identity.reference, **identity.source})
        if not is_stored(model_in(found.store, found.digest)):
            raise _lost(name, identity, prior, f"its store holds no models/{found.digest}")
        kept: TextModel = found
    return kept


def _lost(name: str, identity: TextEncoderIdentity, prior: Artifact, reason: str) -> ArtifactError:
    what = {"t5": "T5", "language_model": "language model"}[name]
    return ArtifactError(
        f"generate: the {what} {shown(str(identity))} of the prior in {prior.uri} is not found ({reason}): expected "
        f"the one of its training: set generate.{name}.path to its folder"
    )


def load_text_to_image(
    models: TrainedModels,
    settings: SamplingSettings,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> TextToImageSystem:
    """Load the whole system."""
    prior, prior_clips = load_prior(models.prior)
    decoder, decoder_clips = load_decoder(models.decoder, models.upsamplers)
    require_same_clips("generate", prior_clips, decoder_clips, _TRAIN_ALIKE)
    _require_same_lengths("the prior", prior_clips, decoder_clips)
    encoders = make_encoders(models.clip, device=device, normalised=decoder_clips.normalised)
    require_same_clips("generate", encoders.identities, decoder_clips, _TRAIN_ALIKE)
    if models.index is not None:
        require_same_clips("generate", models.index.clips, decoder_clips, _TRAIN_ALIKE)
        _require_same_lengths("the index of embeddings", models.index.clips, decoder_clips)
    _require_possible(settings, prior, decoder.spec.sizes, has_index=models.index is not None, encoders=encoders)
    return TextToImageSystem(
        _text_encoder(
            encoders.clip,
            prior_text_encoders(models.prior),
            find_text_models(models.prior, models.text_models),
            device,
        ),
        prior.to(device),
        decoder.to(device),
        settings,
        batch_size=batch_size,
        device=device,
        images=encoders.images,
        index=None if models.index is None else models.index.index.to(device),
    )


def _require_possible(
    settings: SamplingSettings, prior: Prior, sizes: Sequence[Size], *, has_index: bool, encoders: Encoders
) -> None:
    try:
        chosen_size(settings.decoder.size, sizes)
    except ValueError as error:
        raise InputFault(f"generate.decoder.{error}") from None
    try:
        is_one_space = encoders.images is encoders.clip
        require_retrieval(settings, prior, has_index=has_index, is_one_space=is_one_space)
    except ValueError as error:
        raise InputFault(f"generate.{error}") from None


def _text_encoder(
    clip: ClipEncoder, wanted: TextEncoders, models: Mapping[str, TextModel], device: torch.device | str
) -> TextEncoder:
    """Load the encoders that the prior was trained with."""
    encoders = {
        name: STATE_ENCODERS[name](model, max_length=wanted[name].max_length, device=device, where=f"generate.{name}")
        for name, model in models.items()
    }
    clip_max_length = wanted["clip"].max_length if "clip" in wanted else None
    text = TextEncoder(clip, encoders=encoders, clip_max_length=clip_max_length)
    for name, found in text.identities.items():
        if (found.digest, found.width) != (wanted[name].digest, wanted[name].width):
            raise ArtifactError(
                f"generate: the prior was trained on text states of {name} {wanted[name]}, but "
                f"{found} is there now: expected the same weights: set generate.{name} to the model of its "
                "training, or train the prior anew"
            )
    return text


def _require_same_lengths(name: str, clips: Clips, decoder: Clips) -> None:
    if clips.normalised != decoder.normalised:
        found, other = (name, "the decoder") if clips.normalised else ("the decoder", name)
        raise ArtifactError(
            f"generate: {found} learned from normalised embeddings, {other} from raw ones: their embeddings do not "
            "mean the same: train both on the same embed_clip"
        )
