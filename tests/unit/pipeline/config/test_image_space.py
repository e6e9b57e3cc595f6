"""Settings that compare texts with images are refused where clip.images embeds images by another encoder."""

from pathlib import Path

import pytest

from pipeline.config.loading import load_config
from pipeline.config.schema import RunConfig
from pipeline.errors import UsageError
from pipeline.plan import make_plan
from pipeline.store import Store
from tests.factories import save_image, save_tiny_clip, save_tiny_dino

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
TRAINING = "training: {num_steps: 4, batch_size: 8, learning_rate: 0.1, warmup_steps: 1}"
IMAGES = "clip.images={kind: vision_transformer, path: models/dino}"


def load(*words: str, name: str = "photos_pretrained_clip") -> RunConfig:
    return load_config(CONFIGS / f"{name}.yaml", [IMAGES, *words])


def test_an_experiment_of_another_image_encoder_is_accepted() -> None:
    config = load()
    assert config.generate is not None
    assert config.generate.chosen_sets == ("prior", "reconstruction")
    assert any("generate leaves out the set text_embedding" in remark for remark in config.remarks)
    assert not load("generate.sets=[prior]").remarks
    assert config.embed_clip is not None
    assert config.embed_clip.clip.images is not None
    assert "images" in config.embed_clip.clip.model_fields_set


def test_without_one_nothing_is_said_of_it() -> None:
    config = load_config(CONFIGS / "photos_pretrained_clip.yaml")
    assert config.clip is not None
    assert list(config.clip.identity()) == ["models"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train_prior={kind: identity}"], "train_prior: .*IdentityPriorSpec.kind: found 'identity': expected shifted"),
        ([f"train_prior={{kind: autoregressive, num_components: 4, {TRAINING}}}"], "AutoregressivePriorSpec.kind"),
        (
            [f"train_prior={{kind: flow, source: text, {TRAINING}}}"],
            "FlowPriorSpec.source: found 'text': expected noise or gaussian",
        ),
        (
            [f"train_prior={{kind: projection, {TRAINING}}}"],
            "ProjectionPriorSpec.contrastive_weight: found 0.2: expected 0 where",
        ),
        (["train_prior.selection=samples"], "ShiftedPriorSpec.selection: found 'samples': expected means where"),
        (["filter_samples={clip_score: {minimum: 0.2}}"], "filter_samples.clip_score: found one"),
        (["generate.sets=[prior, text_embedding]"], "sets: found text_embedding with clip.images"),
        (["train_decoder.text={}", "train_decoder.init_from=x"], "train_decoder.text: found one"),
        (["embed_clip.existing={path: embeddings}"], "existing is given with clip.images"),
        (
            ["generate.clip={models: [{kind: trained}]}", "train_clip={}"],
            "generate.clip.images is null, and clip.images",
        ),
        (
            ["evaluate.independent_clip={models: [{kind: trained}], images: {kind: timm, path: x}}", "train_clip={}"],
            "independent_clip.images: found one",
        ),
    ],
)
def test_what_compares_texts_with_images_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(*words)


def test_embeddings_of_another_experiment_are_of_their_own_encoder(tmp_path: Path) -> None:
    clip, dino = save_tiny_clip(tmp_path / "clip"), save_tiny_dino(tmp_path / "dino")
    (tmp_path / "images").mkdir()
    save_image(tmp_path / "images" / "a.png")
    (tmp_path / "made.yaml").write_text(
        f"clip: {{models: [{{kind: folder, path: {clip}}}], images: {{kind: vision_transformer, path: {dino}}}}}\n"
        f"download_shards: {{source: {{kind: folder, path: {tmp_path / 'images'}}}}}\nembed_clip: {{}}\n"
    )
    reuses = tmp_path / "reuses.yaml"
    reuses.write_text("reuse: {embed_clip: {config: made.yaml}}\ntrain_prior: {kind: identity}\n")
    store = Store(str(tmp_path / "store"))
    with pytest.raises(UsageError, match=r"reuses: train_prior: .*IdentityPriorSpec\.kind"):
        make_plan(load_config(reuses), store)
    decodes = f"train_prior={{kind: gaussian, {TRAINING}}}"
    assert "train_prior" in make_plan(load_config(reuses, [decodes]), store).stages


def test_a_decoder_of_codes_that_reads_texts_is_refused() -> None:
    words = ["train_decoder={kind: vq_autoregressive, condition: both, resolution: 32}",
             "encode_latents={kind: autoencoder}",
             f"train_autoencoder={{kind: vq, resolution: 32, {TRAINING}}}"]  # fmt: skip
    with pytest.raises(UsageError, match=r"train_decoder\.condition is both"):
        load(*words)
