"""What the sections of an experiment have to agree on where a decoder learns from images of several aspect ratios."""

from collections.abc import Mapping

from models.decoders.buckets import BucketSettings, chosen_size, size_name
from stages.contract.stage import StageConfig
from stages.download_shards.config import DownloadShardsConfig
from stages.encode_latents.config import EncodeLatentsBase
from stages.generate.config import GenerateConfig
from stages.train_autoencoder.config import TrainAutoencoderConfig
from stages.train_decoder.base_config import DecoderConfig
from stages.train_decoder.latent_diffusion.config import LatentDiffusionConfig
from stages.training.images.config import SquaresConfig

_KEEP_RATIOS = ("keep_ratio", "keep_ratio_largest", "no")
_UPSAMPLERS = ("train_upsampler", "train_second_upsampler")


def require_fitting_buckets(stages: Mapping[str, StageConfig]) -> None:
    """Compare the sections of the stages, by name.

    Raises:
        ValueError: some do not fit train_decoder.buckets.
    """
    decoder = stages.get("train_decoder")
    if not isinstance(decoder, DecoderConfig):
        return
    if "encode_latents" in decoder.inputs:
        _require_same(decoder, stages.get("encode_latents"))
    _require_size(decoder, stages)
    if decoder.buckets is None:
        return
    _require_ratios(decoder, decoder.buckets, stages.get("download_shards"))
    for name in _UPSAMPLERS:
        if name in stages:
            raise ValueError(
                f"{name}: found beside train_decoder.buckets: super-resolution models are trained on squares alone; "
                "leave one of both out, or train the decoder at the resolution that is wanted"
            )
    autoencoder = stages.get("train_autoencoder")
    if isinstance(decoder, LatentDiffusionConfig) and isinstance(autoencoder, TrainAutoencoderConfig):
        decoder.spec(1, autoencoder.spec)


def _require_ratios(decoder: DecoderConfig, buckets: BucketSettings, download: StageConfig | None) -> None:
    if not isinstance(download, DownloadShardsConfig):
        return
    if download.resize_mode not in _KEEP_RATIOS:
        raise ValueError(
            f"train_decoder.buckets: found some, and download_shards.resize_mode is {download.resize_mode}, which "
            f"makes squares of all images; set resize_mode to keep_ratio (allowed are {', '.join(_KEEP_RATIOS)}), or "
            "leave buckets out"
        )
    longest = max(max(size) for size in buckets.sizes(decoder.resolution))
    if download.resize_mode == "keep_ratio_largest" and download.image_size < longest:
        raise ValueError(
            f"train_decoder.buckets: their longest side has {longest} pixels, and that of images has "
            f"{download.image_size} (download_shards.image_size with resize_mode keep_ratio_largest); download larger "
            "images, or lower max_aspect_ratio or resolution"
        )


def _require_same(decoder: DecoderConfig, encode: StageConfig | None) -> None:
    if not isinstance(encode, EncodeLatentsBase):
        return
    wanted = None if decoder.buckets is None else decoder.buckets.shared()
    if encode.buckets != wanted:
        found, given = (
            "null" if one is None else f"{{step: {one.step}, max_aspect_ratio: {one.max_aspect_ratio}}}"
            for one in (encode.buckets, wanted)
        )
        raise ValueError(
            f"encode_latents.buckets is {found}, and train_decoder.buckets {given}: allowed are the same, as latents "
            f"are encoded by bucket; set encode_latents.buckets to {given}"
        )


def _require_size(decoder: DecoderConfig, stages: Mapping[str, StageConfig]) -> None:
    generate = stages.get("generate")
    if not isinstance(generate, GenerateConfig) or generate.decoder.size is None:
        return
    levels = [section for name in generate.upsampler_stages if isinstance(section := stages.get(name), SquaresConfig)]
    side = levels[-1].resolution if levels else decoder.resolution
    square = ((side, side),)
    sizes = square if decoder.buckets is None else decoder.buckets.sizes(side)
    try:
        size = chosen_size(generate.decoder.size, sizes)
    except ValueError as error:
        raise ValueError(f"generate.decoder.{error}; see train_decoder.buckets") from None
    if "evaluate" in stages and size not in square:
        raise ValueError(
            f"generate.decoder.size is {size_name(size)}, and evaluate compares squares: allowed is null; leave it "
            "out, and generate images of other sizes by `corgi generate --size`"
        )
