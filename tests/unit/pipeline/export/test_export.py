"""What an export holds beside the models, and for whom."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from pipeline.errors import UsageError
from pipeline.export.diffusers_parts import KOHYA, write_diffusers_parts
from pipeline.export.export import _folder_beside, export_run
from pipeline.export.model_card import write_card
from pipeline.store import Store
from stages.formats.attributions import Attribution, Attributions
from stages.inference.loading import load_decoder
from stages.storage.artifact import Output
from tests.factories import make_entry, make_record, save_tiny_clip, save_tiny_decoder

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
#: As the kohya scripts name them: dots become underscores, and each layer has its alpha.
WANTED_KEYS = {
    f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_{layer}.{part}"
    for layer in ("to_q", "to_out_0")
    for part in ("lora_down.weight", "lora_up.weight", "alpha")
}


def test_networks_of_diffusers_are_written_in_its_format(tmp_path: Path) -> None:
    artifact = save_tiny_decoder(tmp_path / "d", save_tiny_clip(tmp_path / "clip"))
    decoder, _ = load_decoder(artifact)
    assert write_diffusers_parts(tmp_path / "out", artifact, decoder) == ["diffusers/unet"]
    loaded = UNet2DConditionModel.from_pretrained(tmp_path / "out/diffusers/unet", use_safetensors=True).state_dict()
    ours = decoder.unet.state_dict()
    assert loaded.keys() == ours.keys()
    assert all(torch.equal(loaded[name], ours[name]) for name in ours)


def test_low_rank_additions_have_the_keys_that_others_load(tmp_path: Path) -> None:
    artifact = save_tiny_decoder(tmp_path / "d", save_tiny_clip(tmp_path / "clip"))
    additions = {
        f"unet.{LAYER}.{layer}.lora_{side}.weight": torch.full((2, 8) if side == "A" else (8, 2), 0.5)
        for layer in ("to_q", "to_out.0")
        for side in "AB"
    }
    output = Output(artifact.uri, "train_decoder", "tiny")
    with output.writing("decoder/lora/pytorch_lora_weights.safetensors") as path:
        save_file(additions, path)
    written = write_diffusers_parts(tmp_path / "out", artifact, load_decoder(artifact)[0])
    assert written == ["decoder/lora", "diffusers/unet", KOHYA]
    kohya = load_file(tmp_path / "out" / KOHYA)
    assert set(kohya) == WANTED_KEYS
    assert {float(kohya[name]) for name in kohya if name.endswith("alpha")} == {2.0}  # the rank: strength 1
    up = f"lora_unet_{LAYER.replace('.', '_')}_to_q.lora_up.weight"
    assert torch.equal(kohya[up], additions[f"unet.{LAYER}.to_q.lora_B.weight"])


def test_the_card_reports_what_is_known_and_nothing_in_it_is_markup(tmp_path: Path) -> None:
    planned = {
        "download_shards": {"fingerprint": "f1", "identity": {"source": {"kind": "folder", "num_images": 5000}}},
        "train_prior": {"fingerprint": "f2", "identity": {"kind": "flow", "captions": {"fraction": 0.017}}},
        "train_decoder": {"fingerprint": "f3", "identity": {"kind": "pixel_diffusion"}},
        "generate": {"fingerprint": "f4", "identity": {"retrieval": {"weight": 1.0}}},
    }
    stages = [
        make_entry("download_shards", counts={"images": 5000, "captioned": 90, "failed_timeout": 7}),
        make_entry("evaluate", notes={"frechet_distance": "240 images <script>"}),
    ]
    metrics = {"evaluate/frechet_distance": 12.5, "evaluate/accuracy/both": 0.9, "evaluate/chance/both": 1 / 48}
    measures = {
        "evaluate/frechet_distance": {"value": 12.5, "low": 11.0, "high": 14.0, "n": 1240, "protocol": "0123456789"},
        "train_prior/cosine_true/steps_16": {
            "value": 0.51,
            "low": None,
            "high": None,
            "n": 90,
            "protocol": "abcdef0123",
        },
        "train_prior/cosine_true/steps_2": {"value": 0.4, "low": 0.3, "high": 0.5, "n": 90, "protocol": "abcdef0123"},
    }
    protocols = {
        "0123456789": {"features": "EfficientNet <b>", "weights": "aa" * 32, "prompts": "p1", "images": "1240"},
        "abcdef0123": {"held_out": "k1", "seed": "3", "pairs": "90"},
        "unused": {"seed": "4"},
    }
    config = {"train_prior": {"kind": "flow", "training": {"num_steps": 30}}}
    record = make_record(
        "x-1", plan=planned, stages=stages, metrics=metrics, measures=measures, protocols=protocols, config=config
    ).model_copy(update={"run": "<b>|x-1"})
    card = write_card(record, Store(str(tmp_path)), licence=None, others=["diffusers/unet"], has_grid=False)
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert {"license: unknown", "pipeline_tag: text-to-image", "- flow", "- pixel-diffusion"} <= set(front.splitlines())
    for line in (
        "| source | folder |", "| images | 5,000 |", "| captioned | 90 |", "| lost: timeout | 7 |",
        "| Fréchet distance | 12.5 | 11 to 14 | 1,240 | 240 images \\<script\\> |", "- `diffusers/unet`",
        "| both right | 0.900 |  |  | rendered scenes, read by the scene checker; chance 0.021 |",
        "| evaluate/frechet_distance | 12.5 | 11 to 14 | 1,240 | `01234567` |",
        f"- `01234567`: features: EfficientNet \\<b\\>; weights: {'aa' * 32}; prompts: p1; images: 1240",
        "- `abcdef01`: held_out: k1; seed: 3; pairs: 90",
        "| source: num_images | 5000 |", "| captioned fraction | 1.8% |", "| works and their licences | not stated: "
        "whoever passes the model on has to say |",
        "It needs Corgi Pipeline: `pip install .` in a checkout of Corgi Pipeline.",
    ):  # fmt: skip
        assert line in body.splitlines()
    assert "Of the captions, its stages read: train_prior 1.7%." in body
    assert "kind flow, num_steps 30; fingerprint f2" in body
    assert "| embeddings of training images | in index/" in body
    assert body.index("steps_2 | 0.4 | 0.3 to 0.5 | 90 |") < body.index("steps_16 | 0.51 |  | 90 |")
    assert "seed: 4" not in body
    assert "pip install corgi" not in body, "a name that nobody has published may be anybody's"
    assert "<b>" not in body
    assert "samples.png" not in body


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({"captioned": 90, "training_pairs": 71, "held_out_pairs": 9}, "learned from | 71 |"),
        ({"captioned": 50, "pseudo_captioned": 90, "training_pairs": 81}, "learned from | 81 |"),
        ({"captioned": 90}, "read, held-out ones among them | 90 |"),
    ],
    ids=["of people", "with pseudo-captions", "of an earlier version"],
)
def test_the_card_counts_what_the_prior_was_trained_on(tmp_path: Path, counts: dict[str, int], line: str) -> None:
    stages = [make_entry("download_shards", counts={"images": 100}), make_entry("train_prior", counts=counts)]
    planned = {name: {"fingerprint": "f", "identity": {"kind": "flow"}} for name in ("train_prior", "train_decoder")}
    planned["download_shards"] = {"fingerprint": "f", "identity": {"source": {"kind": "folder"}}}
    record = make_record("x-1", plan=planned, stages=stages)
    card = write_card(record, Store(str(tmp_path)), licence=None, others=[], has_grid=False)
    assert f"| captioned images that the prior {line}" in card.splitlines()


def test_the_card_names_the_works_of_the_images_and_their_licences(tmp_path: Path) -> None:
    work = Attribution(
        work="A", author="<b>", license="CC BY 4.0", license_url="https://example.org/by", source="npm package a 1"
    )
    store = Store(str(tmp_path))
    uri = store.artifact("download_shards", "f1").uri
    Attributions(works=(work,)).write(Output(uri, "download_shards", "f1"))
    planned = {
        "download_shards": {"fingerprint": "f1", "identity": {"source": {"kind": "drawings"}}},
        "train_prior": {"fingerprint": "f2", "identity": {"kind": "projection"}},
        "train_decoder": {"fingerprint": "f3", "identity": {"kind": "pixel_diffusion"}},
    }
    card = write_card(make_record(plan=planned), store, licence=None, others=[], has_grid=False)
    assert "Of the images and captions: A by \\<b\\>, CC BY 4.0" in card
    assert "embeddings of training images" not in card


@pytest.mark.parametrize("what", ["file", "full folder"])
def test_nothing_is_written_over(tmp_path: Path, what: str) -> None:
    target = tmp_path / "out"
    if what == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        export_run(Store(str(tmp_path / "store")), make_record(), target)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    record = make_record(config={"name": "tiny", "download_shards": {"source": {"kind": "scenes", "num_images": 4}}})
    with pytest.raises(UsageError, match="has no finished train_prior and train_decoder"):
        export_run(Store(str(tmp_path / "store")), record, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"model cannot be written \((Not a directory|File exists)\): name a folder"):
        _folder_beside(tmp_path / "file" / "model")
