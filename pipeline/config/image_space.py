"""What the sections of an experiment may ask for where ``clip.images`` embeds images by another encoder than texts.

Nothing that compares a text with an image by their embeddings means anything then; each such setting is refused here.
"""

from collections.abc import Iterator, Mapping

from stages.contract.stage import StageConfig
from stages.encoders.config import ClipConfig, OneImageEncoder
from stages.filter_samples.config import FilterSamplesConfig
from stages.generate.config import GenerateConfig
from stages.train_decoder.base_config import TextTunedConfig
from stages.train_decoder.vq_autoregressive.config import VQAutoregressiveConfig
from stages.train_prior.config import ANY_WIDTH, PriorConfig

NamedClip = tuple[str, ClipConfig]
"""A section of CLIP models with its name in messages."""
_REASON = "clip.images embeds images by another encoder than texts, and the two cannot be compared"


def require_one_image_encoder(shared: NamedClip | None, stages: Mapping[str, StageConfig]) -> None:
    """Raise ValueError where two sections name different encoders of images."""
    named = list(_clips(shared, stages))
    for name, clip in named[1:]:
        first, other = (_shown(one.images) for one in (named[0][1], clip))
        if first != other:
            raise ValueError(
                f"{name}.images is {other}, and {named[0][0]}.images is {first}: allowed is one for the experiment, as "
                "prior and decoder are of its embeddings; set clip.images at the top, and leave clip out of the stages"
            )


def require_space_for_texts(shared: NamedClip | None, stages: Mapping[str, StageConfig]) -> None:
    """Raise ValueError where a section compares texts with images of another space."""
    if all(clip.images is None for _, clip in _clips(shared, stages)):
        return
    prior, decoder, filters = (stages.get(name) for name in ("train_prior", "train_decoder", "filter_samples"))
    if isinstance(prior, PriorConfig):
        try:
            prior.spec(embed_dim=ANY_WIDTH, text_dim=ANY_WIDTH)
        except ValueError as error:
            raise ValueError(f"train_prior: {_REASON}: {error}; change it, or leave clip.images out") from None
    if isinstance(filters, FilterSamplesConfig) and filters.clip_score is not None:
        raise ValueError(f"filter_samples.clip_score: found one, and {_REASON}; leave it out, or clip.images")
    if isinstance(decoder, TextTunedConfig) and decoder.text is not None:
        raise ValueError(
            f"train_decoder.text: found one, where a decoder reads texts of the images' space: {_REASON}; leave it out"
        )
    if isinstance(decoder, VQAutoregressiveConfig) and decoder.condition != "image":
        raise ValueError(
            f"train_decoder.condition is {decoder.condition}, where a decoder reads texts of the images' space: "
            f"{_REASON}; set it to image"
        )


def remarks_on_space(stages: Mapping[str, StageConfig]) -> list[str]:
    """Return what is left out of an experiment because texts are not compared with images, in sentences."""
    generate = stages.get("generate")
    leaves_out = isinstance(generate, GenerateConfig) and generate.clip.images is not None and generate.sets is None
    return [f"generate leaves out the set text_embedding: {_REASON}"] if leaves_out else []


def _clips(shared: NamedClip | None, stages: Mapping[str, StageConfig]) -> Iterator[NamedClip]:
    if shared is not None:
        yield shared
    for name, section in stages.items():
        if isinstance(clip := getattr(section, "clip", None), ClipConfig):
            yield f"{name}.clip", clip


def _shown(images: OneImageEncoder | None) -> str:
    return "null" if images is None else f"{images.kind} of {images.path}"
