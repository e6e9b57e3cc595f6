"""What to generate, and how."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from models.decoders.sampling import DecoderSampling
from models.priors.spec import PriorSampling
from models.retrieval.spec import Query, RetrievalSampling
from stages.contract.bounds import Count, CountOrZero, Seed
from stages.contract.config import ConfigModel, ExternalPath, RuntimeOnly
from stages.contract.stage import StageConfig
from stages.encoders.config import ClipConfig, LanguageModelSource, T5Source, TextModel
from stages.formats.splits import SplitConfig
from stages.inference.sampling import SamplingSettings

SetName = Literal["prior", "text_embedding", "reconstruction", "unconditional"]
FILTER = "filter_samples"
UPSAMPLERS = ("train_upsampler", "train_second_upsampler")
SETS: tuple[SetName, ...] = ("prior", "text_embedding", "reconstruction")


class ScenePrompts(ConfigModel):
    """Captions of rendered scenes; each prompt has a true image to compare with."""

    kind: Literal["scenes"]
    num: Count = 192
    seed: Seed = 0
    domain: Literal["plain", "night"] = "plain"
    split: Literal["train", "heldout"] = Field("heldout", description="heldout: combinations no training image has")


class ListPrompts(ConfigModel):
    """Prompts written into the config."""

    kind: Literal["list"]
    texts: tuple[str, ...] = Field(min_length=1)


class NoPrompts(ConfigModel):
    """Images of no prompt, by a prior that has learned without captions."""

    kind: Literal["unconditional"]
    num: Count


class FilePrompts(ConfigModel):
    """Prompts from a file: txt with one a line, or csv or tsv with a column of them."""

    kind: Literal["file"]
    path: ExternalPath
    column: str | None = Field(
        None,
        description="column of the prompts in a csv or tsv file; none: Prompt (PartiPrompts) or Prompts (DrawBench)",
    )
    categories: tuple[str, ...] | None = Field(
        None, description="columns by whose values scores are given too; none: those of Category and Challenge it has"
    )
    limit: Count | None = Field(None, description="use this many from the beginning; none: all")


class CaptionPrompts(ConfigModel):
    """Captions of images that no stage was trained on; each prompt has a true image to compare with."""

    kind: Literal["held_out"]
    num: Count = Field(192, description="most prompts: those of the images with the lowest numbers by hash")
    part: Literal["validation", "test"] | None = Field(
        None, description="of the experiment's split; none: test where split.test puts images aside, else validation"
    )

    def part_of(self, split: SplitConfig) -> Literal["validation", "test"]:
        """Return the part that the captions are of."""
        return self.part or ("test" if split.test > 0 else "validation")


Prompts = ScenePrompts | ListPrompts | FilePrompts | CaptionPrompts | NoPrompts


class RetrievalConfig(ConfigModel):
    """Move embeddings of captions towards the nearest that the decoder has learned from."""

    weight: float = Field(1.0, ge=0.0, le=1.0, description="1: the nearest itself; 0.5: half of both")
    num_embeddings: int = Field(
        2**18, ge=1, le=2**20, description="most embeddings that are compared with; of more images, a sample"
    )
    query: Query | None = Field(
        None,
        description="what is compared: the prior's embedding, or (embedding_and_text) it and the caption's text "
        "embedding, each in units of what the prior learned from; null: the embedding",
    )

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; a query is named where there is one."""
        identity = super().identity()
        if self.query is None:
            del identity["query"]
        return identity


class GenerateConfig(StageConfig):
    """Generate images from prompts, and the control sets that evaluation compares them with."""

    stage: ClassVar[str] = "generate"
    code_version: ClassVar[int] = 5
    uses_gpu: ClassVar[bool] = True
    grows: ClassVar[bool] = True
    cpus_for_each_model: ClassVar[int] = 8

    clip: ClipConfig
    prompts: Annotated[Prompts, Field(discriminator="kind")]
    split: SplitConfig = Field(SplitConfig(), description="that of the experiment; prompts of kind held_out")
    sets: tuple[SetName, ...] | None = Field(
        None,
        description="prior: text to image; text_embedding: the same without a prior; reconstruction: an image "
        "from the embedding of the true one (kinds scenes and held_out); unconditional: of no prompt (that kind only); "
        "none: all that the prompts allow, text_embedding only where there is no clip.images",
    )
    seed: Seed = Field(0, description="another seed gives other images")
    prior: PriorSampling = PriorSampling()
    decoder: DecoderSampling = DecoderSampling()
    retrieval: RetrievalConfig | None = Field(
        None,
        description="take embeddings of captions to where the decoder has learned, for few images; null: as they are",
    )
    upsamplers: Literal[0, 1, 2] = Field(
        0, description="super-resolution models after the decoder: train_upsampler, then train_second_upsampler"
    )
    max_files: CountOrZero = Field(
        5000, description="most images that are stored as single files; more of them as webdataset shards of 1,024"
    )
    t5: Annotated[T5Source | None, RuntimeOnly()] = Field(
        None, description="where the T5 of the prior's training lies now, if it has moved; its weights are compared"
    )
    language_model: Annotated[LanguageModelSource | None, RuntimeOnly()] = Field(
        None, description="the same of its language model"
    )
    batch_size: Annotated[Count, RuntimeOnly()] = Field(64, description="images at a time")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The trained models, the CLIP that they belong to where that is trained too, the images of captions, and the
        embeddings that are retrieved.
        """
        shards = ("download_shards",) if isinstance(self.prompts, CaptionPrompts) else ()
        known = () if self.retrieval is None else ("embed_clip",)
        return (*shards, *known, "train_prior", "train_decoder", *self.upsampler_stages, *self.clip.inputs)

    @property
    def per_shard_inputs(self) -> tuple[str, ...]:
        """The prior, on which not all sets depend: the others are taken from artifacts of other priors."""
        return ("train_prior",)

    @property
    def reads_kept_samples(self) -> bool:
        """Whether its prompts are of images, of which filter_samples may have removed some."""
        return isinstance(self.prompts, CaptionPrompts)

    def identity_with(self, inputs: Collection[str]) -> dict[str, Any]:
        """Say that prompts are of kept images: with retrieval, earlier versions had the same inputs, and all images."""
        return {"prompts": "of kept images"} if self.reads_kept_samples and FILTER in inputs else {}

    @property
    def sets_of_any_prior(self) -> tuple[SetName, ...]:
        """The sets whose images are the same whatever the prior."""
        return ("reconstruction",) if self._captions_are_found_by_prior else ("text_embedding", "reconstruction")

    @property
    def _captions_are_found_by_prior(self) -> bool:
        """Whether captions are compared in units of what the prior learned from, also where it samples nothing."""
        asked = self.retrieval
        return asked is not None and asked.weight > 0 and asked.query == "embedding_and_text"

    def recipe_identity(self, identity: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leave out what concerns the prior's set alone, and which sets there are."""
        return {name: value for name, value in identity.items() if name not in ("prior", "sets")}

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; the split counts where captions of its parts are the prompts, or its
        images are retrieved.

        Where captions are found by the prior, earlier versions took text_embedding from runs of other priors: such
        artifacts have another identity, so that none of them is used again.
        """
        identity = super().identity()
        if not isinstance(self.prompts, CaptionPrompts) and self.retrieval is None:
            del identity["split"]
        if self.retrieval is None:
            del identity["retrieval"]
        if self._captions_are_found_by_prior and "text_embedding" in self.chosen_sets:
            identity["retrieval"] |= {"text_embedding": "by its own prior"}
        return identity

    @property
    def text_models(self) -> dict[str, TextModel]:
        """Where the encoders of token states lie now, by name, as far as that is said."""
        found: dict[str, TextModel | None] = {"t5": self.t5, "language_model": self.language_model}
        return {name: model for name, model in found.items() if model is not None}

    @property
    def sampling(self) -> SamplingSettings:
        """How images are sampled."""
        asked = self.retrieval
        retrieval = RetrievalSampling() if asked is None else RetrievalSampling(asked.weight, asked.query)
        return SamplingSettings(self.prior, self.decoder, retrieval)

    @property
    def upsampler_stages(self) -> tuple[str, ...]:
        """The stages whose super-resolution models are used, the smallest first."""
        return UPSAMPLERS[: self.upsamplers]

    @property
    def chosen_sets(self) -> tuple[SetName, ...]:
        """The sets to generate, in a fixed order."""
        if isinstance(self.prompts, NoPrompts):
            return ("unconditional",)
        possible = SETS if isinstance(self.prompts, ScenePrompts | CaptionPrompts) else SETS[:2]
        if self.clip.images is not None:  # a text embedding cannot take an image embedding's place
            possible = tuple(name for name in possible if name != "text_embedding")
        return tuple(name for name in possible if self.sets is None or name in self.sets)

    @field_validator("sets")
    @classmethod
    def _each_once(cls, sets: tuple[SetName, ...] | None) -> tuple[SetName, ...] | None:
        if sets is not None and (not sets or len(set(sets)) < len(sets)):
            raise ValueError(f"found {list(sets)}: expected one or more sets, each once")
        return sets

    @model_validator(mode="after")
    def _prior_alone_needs_no_prompt(self) -> "GenerateConfig":
        without = isinstance(self.prompts, NoPrompts)
        if any((name == "unconditional") is not without for name in self.sets or ()):
            raise ValueError(
                f"sets: found {list(self.sets or ())} with prompts of kind {self.prompts.kind}: the set unconditional "
                "goes with that kind of prompts, and only it; leave sets out"
            )
        return self

    @model_validator(mode="after")
    def _texts_replace_no_images(self) -> "GenerateConfig":
        if "text_embedding" in (self.sets or ()) and self.clip.images is not None:
            raise ValueError(
                "sets: found text_embedding with clip.images: a text embedding cannot take the place of an image "
                "embedding of another encoder; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _reconstruction_needs_images(self) -> "GenerateConfig":
        if "reconstruction" in (self.sets or ()) and not isinstance(self.prompts, ScenePrompts | CaptionPrompts):
            raise ValueError(
                f"sets: reconstruction needs true images, and prompts of kind {self.prompts.kind} have none; "
                "leave it out, or use prompts of kind scenes or held_out"
            )
        return self

    @model_validator(mode="after")
    def _part_is_there(self) -> "GenerateConfig":
        if isinstance(self.prompts, CaptionPrompts) and self.prompts.part == "test" and self.split.test == 0:
            raise ValueError(
                "prompts.part is test, and split.test is 0, which puts no image aside for it: set split.test at the "
                "top of the experiment, or prompts.part to validation"
            )
        return self
