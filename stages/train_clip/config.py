"""Which CLIP model to train, and how."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, field_validator, model_validator

from stages.contract.bounds import MOST_GIGABYTES, Count, Seed
from stages.contract.config import ConfigModel, RuntimeOnly
from stages.encoders.open_clip_schema import check_towers
from stages.formats.captions import CaptionsConfig
from stages.formats.splits import SplitConfig
from stages.training.config import BestConfig, MetricNames, TrainingConfig, TrainStageConfig, require_one_pass
from stages.training.images.augmentation_config import ImageAugmentation

Color = tuple[float, float, float]
Fraction = Annotated[float, Field(ge=0, le=1)]
_FEWEST_PAIRS = 2
_LATER_CHANGES = ("crop", "flip", "outlines", "color", "grayscale")


class ClipArchitecture(ConfigModel):
    """The model as in open_clip's model configs; the stage adds what depends on the tokenizer."""

    embed_dim: Count
    vision_cfg: dict[str, Any] = Field(description="as in open_clip's model configs; image_size is the side in pixels")
    text_cfg: dict[str, Any] = Field(description="as in open_clip's model configs, without vocabulary and tokenizer")

    @model_validator(mode="after")
    def _known_to_open_clip(self) -> "ClipArchitecture":
        check_towers(self.embed_dim, self.vision_cfg, self.text_cfg)
        return self


class ClipPreprocessing(ConfigModel):
    """The preprocessing of images, by open_clip's names."""

    mean: Color = (0.5, 0.5, 0.5)
    std: Color = (0.5, 0.5, 0.5)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"


class ClipAugmentation(ImageAugmentation):
    """Crops and flips of training images, and standard deviations of changes, in units of the normalised image."""

    contrast: NonNegativeFloat = Field(0.05, description="std of a factor on the whole image")
    brightness: NonNegativeFloat = Field(0.03, description="std of an offset of the whole image")
    noise: NonNegativeFloat = Field(0.03, description="largest std of noise on each value")
    outlines: Fraction = Field(
        0.0, description="fraction of images whose edges are made darker, each by a strength of its own: 0.5 where "
        "drawings with outlines are to be read, and few of the captioned ones have any"
    )  # fmt: skip
    color: NonNegativeFloat = Field(
        0.0, description="std of what each colour takes of every colour, and of its offset: 0.2 where other palettes "
        "are to be read"
    )  # fmt: skip
    grayscale: Fraction = Field(0.0, description="fraction of images without colours")

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; what came later than the others counts where there is any."""
        return {name: value for name, value in super().identity().items() if value or name not in _LATER_CHANGES}


class SceneProbe(ConfigModel):
    """Zero-shot classification and retrieval on held-out scenes of :mod:`models.scenes`."""

    num_images: Count = Field(480, description="held-out scenes of each domain")
    seed: Seed = 7


class TrainClipConfig(TrainStageConfig):
    """Train image and text towers on the captioned images by a contrastive loss."""

    stage: ClassVar[str] = "train_clip"
    code_version: ClassVar[int] = 4
    model_folder: ClassVar[str] = "clip"
    metric_names: ClassVar[MetricNames] = MetricNames(
        r"retrieval_(image_of_text|text_of_image)|[a-z]+_(zero_shot_(shape|color)|retrieval)",  # the latter of scenes
        ("retrieval_image_of_text", "retrieval_text_of_image"),
    )

    captions: CaptionsConfig = Field(
        CaptionsConfig(), description="which captions are read; unset: those of the experiment"
    )
    architecture: ClipArchitecture = Field(
        ClipArchitecture(
            embed_dim=128,
            vision_cfg={"image_size": 64, "layers": [2, 2, 2, 2], "width": 32, "head_width": 64},
            text_cfg={"context_length": 48, "width": 192, "heads": 4, "layers": 3},
        ),
        description="a small ResNet and a small transformer, which 2 CPU cores train in hours on some thousand pairs",
    )
    preprocessing: ClipPreprocessing = ClipPreprocessing()
    augmentation: ClipAugmentation = ClipAugmentation()
    vocab_size: Count = Field(512, ge=300, description="most tokens; the tokenizer is learned from the captions")
    max_logit_scale: float = Field(100.0, gt=1.0, description="bound of the learned inverse temperature")
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=1.0, description="part of the target that is spread over a pair's negatives: 0.1 for few images"
    )
    training: TrainingConfig = TrainingConfig(
        num_steps=3000, batch_size=128, learning_rate=5e-4, betas=(0.9, 0.98), weight_decay=0.2, warmup_steps=200,
        ema_decay=0.99, validation_interval=250, best=BestConfig(metric="retrieval_image_of_text", mode="highest"),
    )  # fmt: skip
    split: SplitConfig = Field(SplitConfig(), description="that of the experiment")
    cache_gigabytes: Annotated[float, RuntimeOnly(), Field(ge=0, le=MOST_GIGABYTES)] = Field(
        1.0, description="memory per worker for preprocessed images; those beyond it are decoded at every visit"
    )
    scene_probe: SceneProbe | None = Field(None, description="null: none, as the images are not scenes")
    store_float16: bool = Field(True, description="store the weights in half precision")

    @field_validator("training", mode="before")
    @classmethod
    def _fill_training(cls, given: object) -> object:
        """Keep the defaults above where a section leaves steps or batch out; one that sets both says all by itself."""
        if isinstance(given, dict) and {"num_steps", "batch_size"} <= given.keys():
            return given
        return super()._fill_training(given)

    @model_validator(mode="after")
    def _image_size_is_known(self) -> "TrainClipConfig":
        if not isinstance(self.architecture.vision_cfg.get("image_size"), int):
            raise ValueError("architecture.vision_cfg.image_size is missing: give the side of the image in pixels")
        return self

    @model_validator(mode="after")
    def _pairs_have_negatives(self) -> "TrainClipConfig":
        require_one_pass(self.training, "train_clip, whose loss contrasts each pair with all others of the batch")
        if self.training.batch_size < _FEWEST_PAIRS:
            raise ValueError(
                f"training.batch_size is {self.training.batch_size}: allowed is {_FEWEST_PAIRS} or more, as a pair "
                "alone has nothing to be contrasted with and learns nothing: raise it (128 is a small one)"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; label smoothing counts where there is any."""
        identity = super().identity()
        if not self.label_smoothing:
            del identity["label_smoothing"]
        return identity

    @property
    def image_size(self) -> int:
        """Side of the model's images in pixels."""
        return int(self.architecture.vision_cfg["image_size"])

    @property
    def context_length(self) -> int:
        """Most tokens of a caption, start and end included."""
        return int(self.architecture.text_cfg.get("context_length", 77))

    @property
    def reads_pseudo_captions(self) -> bool:
        """Whether it trains on pseudo-captions, too."""
        return self.captions.reads_pseudo

    @property
    def inputs(self) -> tuple[str, ...]:
        """The captioned shards."""
        return ("download_shards",)
