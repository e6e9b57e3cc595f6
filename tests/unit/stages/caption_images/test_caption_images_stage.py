"""Pseudo-captions of shards by tiny random models: formats, seeds, counts, resuming, growth."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from cluster.item_progress import begin_item, samples_of_item
from stages.caption_images.captioner import ImageCaptioner, clean_caption
from stages.caption_images.config import CaptionImagesConfig
from stages.caption_images.stage import run
from stages.contract.errors import ArtifactError, InputFault
from stages.encoders.image_to_text.files import TYPES
from stages.formats.pseudo_captions import Captioner, read_pseudo_captions
from stages.storage.artifact import Artifact, Output
from tests.factories import folder_digests, interrupt_after, make_context
from tests.tiny_captioners import WORDS, change_config, save_tiny_captioner
from tests.unit.stages.embed_clip.test_texts import write_shard
from tests.unit.stages.encoded import SIZES, color_of, key_of, make_shards

IMAGES = [Image.new("RGB", (40 + row, 30), color_of(row)) for row in range(5)]
KEYS = [key_of(row) for row in range(5)]
KINDS = (*TYPES, "blip-2-t5")
CONVERSATION = "photo <image> of a red"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("captioners")
    return {kind: save_tiny_captioner(root / kind, kind) for kind in KINDS}


def section(folder: Path, **fields: Any) -> CaptionImagesConfig:
    content = {"model": {"path": folder}, "max_new_tokens": 5, "batch_size": 4} | fields
    if folder.name == "llava":
        content.setdefault("prompt", CONVERSATION)
    return CaptionImagesConfig.model_validate(content)


def caption(folder: Path, config: CaptionImagesConfig, shards: Artifact, **options: Any) -> tuple[Output, Any]:
    output = Output(str(folder), "caption_images", "p")
    return output, run(config, {"download_shards": shards}, output, make_context(**options))


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_those_of_transformers_whatever_is_captioned_beside(kind: str, models: dict[str, Path]) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, LlavaProcessor

    folder = models[kind]
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    images, texts = AutoImageProcessor.from_pretrained(folder, backend="pil"), AutoTokenizer.from_pretrained(folder)
    inputs, num_before = images(images=IMAGES, return_tensors="pt"), 3 if kind == "blip-2" else 0
    if kind == "llava":
        both = LlavaProcessor(images, texts, patch_size=16, vision_feature_select_strategy="default",
                              num_additional_image_tokens=1)  # fmt: skip
        inputs = both(images=IMAGES, text=[CONVERSATION] * len(IMAGES), return_tensors="pt")
        num_before = inputs["input_ids"].shape[1]
    tokens = model.generate(**inputs, max_new_tokens=5, num_beams=2, num_return_sequences=2)
    expected = texts.batch_decode(tokens[:, num_before:], skip_special_tokens=True)
    captioner = ImageCaptioner(section(folder, num_beams=2, num_captions=2), device="cpu")
    found = captioner.caption(IMAGES, KEYS)
    assert [one for captions in found for one in captions] == expected
    assert [captioner.caption([image], [key])[0] for image, key in zip(IMAGES, KEYS, strict=True)] == found
    assert captioner.identity.model_type == kind.removesuffix("-t5")


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_seeded_by_the_image_s_key(kind: str, models: dict[str, Path]) -> None:
    sampled = section(models[kind], temperature=1.0, num_captions=3, seed=7)
    found = ImageCaptioner(sampled, device="cpu").caption(IMAGES, KEYS)
    again = ImageCaptioner(sampled, device="cpu").caption(IMAGES[::-1], KEYS[::-1])[::-1]
    assert found == again
    assert len({one for captions in found for one in captions}) > len(IMAGES)
    other = ImageCaptioner(sampled.model_copy(update={"seed": 8}), device="cpu").caption(IMAGES, KEYS)
    assert other != found


@pytest.mark.parametrize("kind", sorted({*TYPES} - {"llava"}))
def test_a_prompt_begins_every_caption(kind: str, models: dict[str, Path]) -> None:
    captioner = ImageCaptioner(section(models[kind], prompt="a photo of", temperature=2.0), device="cpu")
    captions = [one for (one,) in captioner.caption(IMAGES, KEYS)]
    assert all(f"{one} ".startswith("a photo of ") for one in captions)
    assert len(set(captions)) > 1


def test_a_prompt_is_read_where_an_encoder_reads_texts(models: dict[str, Path]) -> None:
    plain, asked = (
        ImageCaptioner(section(models["blip-2-t5"], prompt=prompt, num_beams=2, num_captions=2), device="cpu")
        for prompt in (None, "a photo of two red")
    )
    captions = plain.caption(IMAGES, KEYS), asked.caption(IMAGES, KEYS)
    assert captions[0] != captions[1]


def test_a_conversation_is_continued_and_not_repeated(models: dict[str, Path]) -> None:
    captions = {
        prompt: ImageCaptioner(section(models["llava"], prompt=prompt), device="cpu").caption(IMAGES, KEYS)
        for prompt in ("star <image> star", "photo <image> of a red")
    }
    first, second = captions.values()
    assert first != second
    assert len({one for (one,) in first}) > 1
    assert not any(one.startswith("star") for (one,) in first)


def test_a_folder_with_the_keys_of_llava_1_5_is_read(tmp_path: Path) -> None:
    folder = save_tiny_captioner(tmp_path / "llava", "llava")
    change_config(folder, ignore_index=-100, torch_dtype="float16", vision_feature_layer=-2, tie_word_embeddings=False)
    about = {"image_token": "<image>", "patch_size": 16, "num_additional_image_tokens": 1}
    about |= {"vision_feature_select_strategy": "default", "processor_class": "LlavaProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(about))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ 1 // 0 }}"}))
    assert ImageCaptioner(section(folder), device="cpu").identity.model_type == "llava"


@pytest.mark.parametrize(
    ("prompt", "found"), [(None, "none"), ("a photo", "0 times"), ("<image> a <image>", "2 times")]
)
def test_a_conversation_has_its_image_once(models: dict[str, Path], prompt: str | None, found: str) -> None:
    with pytest.raises(InputFault, match=rf'^caption_images\.prompt: found {found}.*<image> once.*"USER: <image>\\n'):
        ImageCaptioner(section(models["llava"], prompt=prompt), device="cpu")


def test_sampling_takes_each_token_by_its_probability() -> None:
    """Of 4000 samples each frequency is within 5 standard deviations of softmax(logits / T)."""
    import torch

    from stages.caption_images.captioner import SeededSampling

    logits, temperature, count = torch.tensor([0.0, 1.0, 2.0, -1.0, float("-inf")]), 0.7, 4000
    sampled = SeededSampling(range(count), temperature)(torch.zeros(count, 1).long(), logits.expand(count, -1))
    frequency = torch.bincount(sampled.argmax(1), minlength=5) / count
    expected = torch.softmax(logits / temperature, 0)
    assert (frequency - expected).abs().le(5 * (expected * (1 - expected) / count).sqrt()).all()


def test_a_shard_s_images_are_captioned_and_counted(tmp_path: Path, models: dict[str, Path]) -> None:
    shards = make_shards(tmp_path / "s", corrupt=(2, 15))
    begin_item()
    output, summary = caption(tmp_path / "out", section(models["blip"], prompt="a"), shards)
    assert samples_of_item() == SIZES[-1]
    found = read_pseudo_captions(output, "00000")
    assert list(found) == [key_of(row) for row in range(SIZES[0]) if row != 2]
    assert all(
        set(one.split()) <= {*WORDS, "<", "image", ">", "<image>"} for captions in found.values() for one in captions
    )
    images = sum(SIZES) - 2
    assert summary.counts == {
        "images": images, "pseudo_captioned": images, "pseudo_captions": images, "failed_corrupt_image": 2,
    }  # fmt: skip
    about = Captioner.of(output)
    assert (about.model_type, about.prompt, about.images, about.seed) == ("blip", "a", "all", None)
    assert str(about) == summary.notes["captioner"]


def test_an_interrupted_run_goes_on_and_batches_do_not_matter(tmp_path: Path, models: dict[str, Path]) -> None:
    shards, config = make_shards(tmp_path / "s"), section(models["git"], temperature=1.0)
    caption(tmp_path / "whole", config, shards)
    with pytest.raises(KeyboardInterrupt):
        caption(tmp_path / "cut", config, shards, map_shards=interrupt_after(1))
    caption(tmp_path / "cut", config.model_copy(update={"batch_size": 9}), shards)
    assert folder_digests(tmp_path / "cut") == folder_digests(tmp_path / "whole")


def test_captioned_images_are_left_to_people_where_that_is_asked(tmp_path: Path, models: dict[str, Path]) -> None:
    write_shard(tmp_path / "s", "00000", [["a red star"], [], ["  "], ["blue ring", "ring"]])
    shards = Artifact(str(tmp_path / "s"), "download_shards", "s")
    output, summary = caption(tmp_path / "out", section(models["git"], images="uncaptioned"), shards)
    assert list(read_pseudo_captions(output, "00000")) == ["000000001", "000000002"]
    assert summary.counts["left_to_human_captions"] == 2
    assert summary.metrics["yield"] == 1.0


def test_too_few_captions_fail_the_stage(tmp_path: Path, models: dict[str, Path]) -> None:
    shards = make_shards(tmp_path / "s", corrupt=tuple(range(20)))
    with pytest.raises(InputFault, match=r"14 of 34 images got a caption \(41.2%\), below caption_images.min_yield"):
        caption(tmp_path / "out", section(models["git"]), shards)
    caption(tmp_path / "out", section(models["git"], min_yield=0.4), shards)


def test_captions_of_another_model_are_not_mixed(tmp_path: Path, models: dict[str, Path]) -> None:
    shards = make_shards(tmp_path / "s")
    with pytest.raises(KeyboardInterrupt):
        caption(tmp_path / "out", section(models["git"]), shards, map_shards=interrupt_after(1))
    other = save_tiny_captioner(tmp_path / "other", "git", seed=1)
    with pytest.raises(ArtifactError, match="the files have changed meanwhile"):
        caption(tmp_path / "out", section(other), shards)


def test_the_commit_of_a_folder_is_recorded(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = save_tiny_captioner(tmp_path / "snapshots" / commit, "git")
    assert ImageCaptioner(section(folder), device="cpu").identity.revision == commit
    moved = folder.rename(tmp_path / "model")
    assert ImageCaptioner(section(moved), device="cpu").identity.revision == ""
    beside = moved / ".cache/huggingface/download/config.json.metadata"
    beside.parent.mkdir(parents=True)
    beside.write_text(f"{commit}\netag\n1.0\n")
    assert ImageCaptioner(section(moved), device="cpu").identity.revision == commit


@pytest.mark.parametrize(
    ("text", "longest", "expected"),
    [
        ("  a\n red\tstar\x00 ", 100, "a red star"),
        ("a red star", 10, "a red star"),
        ("a red star", 9, "a red"),
        ("a red star", 5, "a red"),
        ("incomprehensible", 4, "inco"),
        ("\u202estar", 9, "star"),
    ],
)
def test_captions_are_one_line_of_whole_words(text: str, longest: int, expected: str) -> None:
    assert clean_caption(text, longest) == expected


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"num_captions": 2}, "num_captions is 2 with num_beams 1"),
        ({"num_beams": 2, "temperature": 1.0}, "num_beams is 2 with temperature 1, which samples"),
        ({"images": "some"}, "'all' or 'uncaptioned'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields: dict[str, Any], found: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=found):
        section(tmp_path, **fields)


def test_the_seed_counts_where_captions_are_sampled(models: dict[str, Path]) -> None:
    greedy, sampled = ({"seed": 3}, {"seed": 3, "temperature": 1.0})
    assert section(models["git"], **greedy).identity() == section(models["git"]).identity()
    assert section(models["git"], **sampled).identity() != section(models["git"], temperature=1.0).identity()
