"""The schema of an experiment: shared sections, and one section per stage under the stage's own name."""

import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveInt,
    PrivateAttr,
    field_serializer,
    model_validator,
)

from pipeline.config.buckets import require_fitting_buckets
from pipeline.config.image_space import remarks_on_space, require_one_image_encoder, require_space_for_texts
from pipeline.config.messages import models_in
from pipeline.config.storage import StorageConfig
from pipeline.names import GivenName
from pipeline.options import STORE_VARIABLE, default_store
from stages.caption_images.config import CaptionImagesConfig
from stages.contract.bounds import LONGEST_WAIT
from stages.contract.config import AnyAddress, ConfigModel, ExternalPath, SecretAddress
from stages.contract.secrets import NOTIFY_VARIABLE, redact, redact_path
from stages.contract.stage import StageConfig
from stages.contract.texts import show_value
from stages.download_shards.config import DownloadShardsConfig
from stages.embed_clip.config import EmbedClipConfig
from stages.encode_latents.config import EncodeLatentsConfig
from stages.encoders.config import ClipConfig
from stages.evaluate.config import EvaluateConfig
from stages.filter_samples.config import FilterSamplesConfig
from stages.fit_gaussians.config import FitGaussiansConfig
from stages.formats.captions import CaptionsConfig
from stages.formats.splits import SplitConfig
from stages.generate.config import GenerateConfig
from stages.train_autoencoder.config import TrainAutoencoderConfig
from stages.train_clip.config import TrainClipConfig
from stages.train_decoder.config import TrainDecoderConfig
from stages.train_prior.config import TrainPriorConfig
from stages.train_second_upsampler.config import TrainSecondUpsamplerConfig
from stages.train_upsampler.config import TrainUpsamplerConfig
from stages.training.images.config import ImageTrainingConfig
from stages.training.upsampling.config import UpsamplerTrainingConfig

#: Top-level keys that a stage section takes over where it has a field of the same name and does not set it.
SHARED = ("seed", "captions", "split", "clip")
CAPTION_IMAGES = "caption_images"


class TrackingConfig(ConfigModel):
    """Where the runs are recorded with MLflow."""

    uri: AnyAddress | None = Field(None, description="MLflow tracking URI; none: SQLite inside the store")
    experiment: str = Field("corgi", description="MLflow experiment")
    register_model: bool = Field(True, description="register the finished text-to-image model")
    patience: NonNegativeFloat = Field(
        10.0,
        le=LONGEST_WAIT,
        description="seconds that the end of a run waits for the server; what it did not take is kept and sent later",
    )


class ClusterConfig(ConfigModel):
    """Which Ray to use."""

    address: AnyAddress | None = Field(
        None, description="an existing Ray cluster; none: RAY_ADDRESS, else Ray in this process"
    )
    allow_unauthenticated: bool = Field(
        False, description="use a cluster that asks for no token: anyone who reaches it can run commands on it"
    )
    num_cpus: PositiveInt | None = Field(None, description="CPUs of the Ray in this process; none: all")
    grace_seconds: NonNegativeFloat = Field(
        30.0,
        le=LONGEST_WAIT,
        description="seconds from SIGTERM or Ctrl-C to the kill that may follow, as Kubernetes waits: training writes "
        "a checkpoint of the step in hand within",
    )
    overlap: bool = Field(
        True, description="work on a shard as soon as it is there, beside the stage that makes it, where there is room"
    )


class ReuseConfig(ConfigModel):
    """Take a stage's artifact from another experiment instead of making it here."""

    config: ExternalPath = Field(description="the experiment (a YAML file) whose artifact is used")
    overrides: tuple[str, ...] = Field(
        (), description="dotted.key=value words with which that experiment is run, such as [seed=1]"
    )

    @field_serializer("overrides", when_used="json")
    def _shown_overrides(self, words: tuple[str, ...]) -> list[str]:
        return [redact(word) for word in words]  # as a record keeps them


def _is_web_address(value: str) -> str:
    try:
        parts = urllib.parse.urlsplit(value)
        if parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0):
            return value
    except ValueError:
        pass
    raise ValueError(f"found {show_value(redact_path(value))}: allowed is a web address, http://… or https://…")


class NotifyConfig(ConfigModel):
    """Whom to notify when a run ends."""

    url: Annotated[SecretAddress, AfterValidator(_is_web_address)] | None = Field(
        None,
        repr=False,
        description="web address that gets a small JSON document by POST when the run is done, failed or interrupted; "
        f"none: that of {NOTIFY_VARIABLE}, if it is set",
    )


class RunConfig(ConfigModel):
    """One experiment. A stage runs where its section is present; ``null`` takes it out of the graph."""

    name: GivenName
    store: AnyAddress = Field(
        default_factory=default_store,
        description=f"folder or fsspec URI for artifacts and runs; none: that of {STORE_VARIABLE}, else workspace",
    )
    storage: StorageConfig = StorageConfig()
    seed: int = Field(0, ge=0, le=2**53)
    captions: CaptionsConfig = CaptionsConfig()
    split: SplitConfig = SplitConfig()
    clip: ClipConfig | None = None
    reuse: dict[str, ReuseConfig] = Field(default_factory=dict)
    tracking: TrackingConfig = TrackingConfig()
    notify: NotifyConfig = NotifyConfig()
    cluster: ClusterConfig = ClusterConfig()

    # The stages, in an order in which each comes after its inputs.
    download_shards: DownloadShardsConfig | None = None
    caption_images: CaptionImagesConfig | None = None
    train_clip: TrainClipConfig | None = None
    embed_clip: EmbedClipConfig | None = None
    filter_samples: FilterSamplesConfig | None = None
    fit_gaussians: FitGaussiansConfig | None = None
    train_prior: TrainPriorConfig | None = None
    train_autoencoder: TrainAutoencoderConfig | None = None
    encode_latents: EncodeLatentsConfig | None = None
    train_decoder: TrainDecoderConfig | None = None
    train_upsampler: TrainUpsamplerConfig | None = None
    train_second_upsampler: TrainSecondUpsamplerConfig | None = None
    generate: GenerateConfig | None = None
    evaluate: EvaluateConfig | None = None

    _left_out_of_base: tuple[str, ...] = PrivateAttr(())

    @property
    def left_out_of_base(self) -> tuple[str, ...]:
        """Keys of a file that this one extends, which the kind chosen here does not have, or has otherwise."""
        return self._left_out_of_base

    @property
    def remarks(self) -> list[str]:
        """Sentences for `corgi validate` and `corgi plan`."""
        keys = ", ".join(self._left_out_of_base)
        found = [f"left out of what it extends, as another kind has its own: {keys}"] if keys else []
        return found + remarks_on_space(self.stages())

    def with_left_out(self, keys: Iterable[str]) -> "RunConfig":
        """Return the experiment, which says what was left out of the one that it extends."""
        self._left_out_of_base = tuple(keys)
        return self

    def stages(self) -> dict[str, StageConfig]:
        """Return the sections of the stages in this experiment, in running order."""
        return {name: section for name in STAGES if (section := getattr(self, name)) is not None}

    def inputs_of(self, section: StageConfig) -> tuple[str, ...]:
        """Return the stages whose artifacts a stage gets; embeddings, and prompts of held-out images, come with what
        filter_samples kept of them, and shards with their pseudo-captions.
        """
        if self.has_pseudo_captions and section.reads_pseudo_captions:
            return (*section.inputs, CAPTION_IMAGES)
        filtered = self.filter_samples is not None or "filter_samples" in self.reuse
        reads_kept = section.reads_kept_samples or "embed_clip" in section.inputs
        if filtered and reads_kept and section.stage != "filter_samples":
            return (*section.inputs, "filter_samples")
        return section.inputs

    def streams_of(self, section: StageConfig) -> tuple[str, ...]:
        """Return the stages whose shards a stage takes as they come; a shard's pseudo-captions come after it."""
        if "download_shards" in section.streams_from and CAPTION_IMAGES in self.inputs_of(section):
            return (*section.streams_from, CAPTION_IMAGES)
        return section.streams_from

    @property
    def has_pseudo_captions(self) -> bool:
        """Whether there are pseudo-captions, made here or in another experiment."""
        return self.caption_images is not None or CAPTION_IMAGES in self.reuse

    @model_validator(mode="after")
    def _graph_is_whole(self) -> "RunConfig":
        stages = self.stages()
        if not stages:
            raise ValueError("no stage has a section; add at least download_shards")
        for name in self.reuse:
            if name not in STAGES:
                raise ValueError(f"reuse.{name}: not a stage; allowed: {', '.join(STAGES)}")
            if name in stages:
                raise ValueError(f"reuse.{name}: the stage also has a section of its own; remove one (`{name}: null`)")
        for name, section in stages.items():
            for source in section.inputs:
                if source not in stages and source not in self.reuse:
                    raise ValueError(
                        f"{name}: needs the stage {source}, which has no section; add `{source}:` or `reuse.{source}`"
                    )
        return self

    @model_validator(mode="after")
    def _one_split(self) -> "RunConfig":
        for name, section in self.stages().items():
            own = getattr(section, "split", self.split)
            if own != self.split:
                raise ValueError(
                    f"{name}.split is {own.model_dump()}: allowed is that of the experiment, "
                    f"{self.split.model_dump()}, as no stage may train on what another validates on; set split at the "
                    "top, and leave this out"
                )
        return self

    @model_validator(mode="after")
    def _prior_has_captions(self) -> "RunConfig":
        prior = self.train_prior
        if prior is not None and _reads_none(prior.captions) and prior.learned_from != "images":
            raise ValueError(
                "train_prior: captions.fraction is 0, and a prior learns from captions; set captions.fraction above 0, "
                "take a trained prior with `train_prior: null` and reuse.train_prior.config, or set "
                "train_prior.text_dropout to 1 for a prior that generates without prompts"
            )
        return self

    @model_validator(mode="after")
    def _clip_has_captions(self) -> "RunConfig":
        if self.train_clip is not None and _reads_none(self.train_clip.captions):
            raise ValueError(
                "train_clip: captions.fraction is 0, and a CLIP learns from captions; set captions.fraction above 0, "
                "let train_clip alone read some (train_clip.captions.fraction), or take a trained one with "
                "`train_clip: null` and reuse.train_clip.config"
            )
        return self

    @model_validator(mode="after")
    def _pseudo_captions_are_made(self) -> "RunConfig":
        embed = self.embed_clip
        if self.has_pseudo_captions and embed is not None and embed.existing is not None:
            raise ValueError(
                "embed_clip.existing takes embeddings that are there already, and none of the pseudo-captions of "
                "caption_images: leave one of them out"
            )
        for name, captions in [("captions", self.captions), *_caption_sections(self.stages())]:
            if captions.reads_pseudo and not self.has_pseudo_captions:
                raise ValueError(
                    f"{name}.mix weighs pseudo-captions, which no stage makes: add `caption_images:` or "
                    f"`reuse.caption_images`, set {name}.mix.pseudo to 0, or leave the mix out"
                )
        return self

    @model_validator(mode="after")
    def _images_are_large_enough(self) -> "RunConfig":
        download = self.download_shards
        if download is None or download.resize_mode == "no":
            return self
        for name, section in self.stages().items():
            if isinstance(section, ImageTrainingConfig) and section.resolution > download.image_size:
                raise ValueError(
                    f"{name}.resolution is {section.resolution}, and download_shards.image_size is "
                    f"{download.image_size}: allowed is at most that; lower it, or download larger images"
                )
        return self

    @model_validator(mode="after")
    def _buckets_fit_one_another(self) -> "RunConfig":
        require_fitting_buckets(self.stages())
        return self

    @model_validator(mode="after")
    def _texts_are_compared_in_one_space(self) -> "RunConfig":
        shared = None if self.clip is None else ("clip", self.clip)
        require_one_image_encoder(shared, self.stages())
        require_space_for_texts(shared, self.stages())
        return self

    @model_validator(mode="after")
    def _cascade_is_a_chain(self) -> "RunConfig":
        """Models of a cascade are trained apart, so that only here is known whether they will fit one another."""
        levels: tuple[tuple[str, UpsamplerTrainingConfig | None, str, ImageTrainingConfig | None], ...] = (
            ("train_upsampler", self.train_upsampler, "train_decoder", self.train_decoder),
            ("train_second_upsampler", self.train_second_upsampler, "train_upsampler", self.train_upsampler),
        )
        for name, level, below_name, below in levels:
            if level is not None and below is not None and level.from_resolution != below.resolution:
                raise ValueError(
                    f"{name}.from_resolution is {level.from_resolution}: allowed is {below.resolution}, which is "
                    f"{below_name}.resolution; set both to the same"
                )
        return self


def _reads_none(captions: CaptionsConfig) -> bool:
    return captions.fraction == 0 and not captions.reads_pseudo


def _caption_sections(stages: Mapping[str, StageConfig]) -> Iterator[tuple[str, CaptionsConfig]]:
    for name, section in stages.items():
        if isinstance(captions := getattr(section, "captions", None), CaptionsConfig):
            yield f"{name}.captions", captions


#: The name of every stage, in the order of its section.
STAGES = tuple(
    name
    for name, info in RunConfig.model_fields.items()
    if any(issubclass(model, StageConfig) for model in models_in(info.annotation))
)


def is_trained(stage: str) -> bool:
    """Whether a stage trains a model, of one kind at least."""
    variants = [
        model for model in models_in(RunConfig.model_fields[stage].annotation) if issubclass(model, StageConfig)
    ]
    return any(variant.work == "training" for variant in variants)
