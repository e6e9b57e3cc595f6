"""Decoders of latents in several sizes: encoded by bucket, learned from, and generated, SDXL's U-Net among them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from cluster.mapping import map_in_process
from cluster.training import launch_in_process
from models.decoders.base import from_bytes
from models.decoders.sampling import DecoderSampling
from stages.contract.errors import InputFault
from stages.contract.stage import Allocation, StageContext
from stages.encode_latents.config import EncodeLatentsConfig
from stages.encode_latents.stage import run as encode
from stages.formats.images import covering, cropped, decode_image
from stages.formats.latents import (
    EncoderIdentity,
    LatentRows,
    LatentsIdentity,
    read_buckets,
    record_encoder,
    take_part,
)
from stages.formats.model_folders import save_model
from stages.inference.autoencoder import load_autoencoder
from stages.inference.loading import load_decoder
from stages.storage.artifact import Artifact, Output
from stages.train_decoder.config import TrainDecoderConfig
from stages.train_decoder.stage import make_task, run
from stages.training.task import BatchPart, RankInfo
from tests.bucketed_images import DIM, SIZES, make_image, make_inputs
from tests.specs import make_autoencoder_spec
from tests.tiny_stable_diffusion import save_tiny_stable_diffusion_xl

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

HERE = RankInfo(0, 1, torch.device("cpu"))
BUCKETS = {"step": 8}
TRAINING = {"num_steps": 2, "batch_size": 4, "warmup_steps": 1, "precision": "float32"}


def context() -> StageContext:
    return StageContext(lambda event: None, map_in_process, launch_in_process, Allocation())


def encoded(inputs: dict[str, Artifact], folder: Path, **section: Any) -> dict[str, Artifact]:
    output = Output(str(folder), "encode_latents", "l")
    encode(TypeAdapter(EncodeLatentsConfig).validate_python(section), inputs, output, context())
    return {**inputs, "encode_latents": output}


def config(**section: Any) -> Any:
    shared = {"resolution": 32, "samples": {"num_images": 5, "num_steps": 1}, "split": {"validation": 0.2}}
    return TypeAdapter(TrainDecoderConfig).validate_python({**shared, "training": TRAINING, **section})


def latent_config(kind: str, *, conditioned: bool = True, buckets: dict[str, Any] | None = BUCKETS) -> Any:
    networks = {
        "unet": {"kind": "unet", "channels": [32]},
        "dit": {"kind": "dit", "num_layers": 1, "num_heads": 1, "head_dim": 16},
    }
    own = None if buckets is None else {**buckets, "size_conditioning": conditioned}
    small = {"layout_channels": 4, "layout_hidden": 16, "layout_resolution": 4, "num_tokens": 2, "token_dim": 16}
    return config(kind="latent_diffusion", network=networks[kind], conditioning=small, buckets=own)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    spec = make_autoencoder_spec(
        "kl", resolution=32, unshuffle=4, channels=(16,), blocks_per_level=1, latent_channels=3, attention=False
    )
    first = Output(str(folder / "ae"), "train_autoencoder", "c")
    save_model(first, "autoencoder", spec.build(), {"kind": "kl", "model": spec.to_dict()})
    made = {**make_inputs(folder), "train_autoencoder": first}
    return encoded(made, folder / "latents", kind="autoencoder", buckets=BUCKETS)


def test_each_image_is_encoded_at_the_size_of_its_bucket(inputs: dict[str, Artifact]) -> None:
    latents, model = inputs["encode_latents"], load_autoencoder(inputs["train_autoencoder"])
    sizes = LatentsIdentity.of(latents).sizes
    assert sizes == ((24, 40), (32, 32), (40, 24))
    keys = [f"{row:05d}" for row in range(10)]
    assert read_buckets(latents, "00000", keys).tolist() == [2, 1, 0, 2, 2] * 2
    for row in (0, 1, 2, 3):
        size = {(60, 36): (40, 24), (40, 40): (32, 32), (36, 60): (24, 40), (120, 36): (40, 24)}[SIZES[row]]
        image = cropped(covering(decode_image(make_image(row), where="x"), size), size)
        expected = model.encode(from_bytes(torch.from_numpy(image[None].copy())))[0].detach().numpy()
        found = LatentRows(latents, "latents").read([("00000", keys[row])])[0]
        assert found.shape == (3, size[1] // 4, size[0] // 4)
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_a_latent_decoder_learns_and_generates_every_size(
    kind: str, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    run(latent_config(kind), inputs, Output(str(tmp_path), "train_decoder", "c"), context())
    decoder, _ = load_decoder(Artifact(str(tmp_path), "train_decoder", "c"))
    for name, shape in {"40x24": (24, 40), "24x40": (40, 24), None: (32, 32)}.items():
        sampling = DecoderSampling(num_steps=1, size=name, guidance_scale=2.0)
        assert decoder.sample(torch.zeros(2, DIM), [1, 2], sampling).shape == (2, 3, *shape)


def test_sizes_reach_the_prediction(inputs: dict[str, Artifact]) -> None:
    for kind in ("unet", "dit"):
        task = make_task(latent_config(kind), inputs)
        task.setup(HERE)
        torch.manual_seed(0)
        model = task.build_model().eval()
        batch = dict(task.prepare(BatchPart(0, 0, 4, 4)))
        other = {**batch, "sizes": batch["sizes"] + torch.tensor([0, 0, 9, 0, 0, 0])}
        assert not torch.allclose(model(batch)["loss"], model(other)["loss"]), kind


@pytest.mark.parametrize("buckets", [None, {"step": 8, "max_aspect_ratio": 3.0}])
def test_latents_of_other_buckets_are_refused(buckets: dict[str, Any] | None, inputs: dict[str, Artifact]) -> None:
    task = make_task(latent_config("unet", buckets=buckets, conditioned=False), inputs)
    with pytest.raises(InputFault, match=r"buckets: found .*, and latents of step 8 .*: expected the same"):
        task.setup(HERE)


def test_an_xl_checkpoint_is_tuned_with_sizes(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    checkpoint = save_tiny_stable_diffusion_xl(tmp_path / "xl")
    source = {"kind": "stable_diffusion", "path": str(checkpoint), "resolution": 32}
    made = encoded(inputs, tmp_path / "latents", **source, buckets=BUCKETS)
    settings = config(**source, buckets={**BUCKETS, "size_conditioning": True})
    run(settings, made, Output(str(tmp_path / "out"), "train_decoder", "c"), context())
    decoder, _ = load_decoder(Artifact(str(tmp_path / "out"), "train_decoder", "c"))
    sampling = DecoderSampling(num_steps=2, guidance_scale=2.0, size="40x24")
    ours = decoder.sample(torch.zeros(1, DIM), [3], sampling)
    assert ours.shape == (1, 3, 24, 40)
    torch.testing.assert_close(ours, _by_diffusers(tmp_path / "out/decoder/pipeline", decoder), atol=2e-3, rtol=0)


def _by_diffusers(folder: Path, decoder: Any) -> torch.Tensor:
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    embeddings = torch.zeros(1, DIM)
    tokens, no_tokens = decoder.prompt_embeddings(embeddings)
    pooled, no_pooled = decoder.pooled_embeddings(embeddings)
    noise = torch.randn(1, 4, 6, 10, generator=torch.Generator().manual_seed(3))
    images = pipeline(
        prompt_embeds=tokens, negative_prompt_embeds=no_tokens, pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=no_pooled, latents=noise, num_inference_steps=2, guidance_scale=2.0, height=24,
        width=40, output_type="pt",
    ).images  # fmt: skip
    shown: torch.Tensor = images * 2 - 1
    return shown


def test_a_checkpoint_without_inputs_for_sizes_is_refused(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    from tests.tiny_stable_diffusion import save_tiny_stable_diffusion

    checkpoint = save_tiny_stable_diffusion(tmp_path / "sd")
    source = {"kind": "stable_diffusion", "path": str(checkpoint), "resolution": 32}
    made = encoded(inputs, tmp_path / "latents", **source, buckets=BUCKETS)
    for conditioned in (True, False):
        task = make_task(config(**source, buckets={**BUCKETS, "size_conditioning": conditioned}), made)
        if conditioned:
            with pytest.raises(InputFault, match="size_conditioning false, as the U-Net takes no sizes"):
                task.setup(HERE)
        else:
            task.setup(HERE)
            batch = task.prepare(BatchPart(0, 0, 4, 4))
            assert task.build_model()(batch)["loss"].shape == (4,)


def test_images_are_scaled_to_cover_and_cut_in_the_middle() -> None:
    image = covering(Image.new("RGB", (120, 36)), (40, 24))
    assert image.shape == (24, 80, 3)
    assert cropped(image, (40, 24)).shape == (24, 40, 3)


def test_latents_of_some_of_a_shards_images_are_taken_by_bucket(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    fewer = make_inputs(tmp_path, sizes=(8,))["download_shards"]
    latents, taken = inputs["encode_latents"], Output(str(tmp_path / "taken"), "encode_latents", "m")
    record = take_part(latents, "00000", fewer, taken, "00000")
    assert record is not None
    assert record.rows == 8
    record_encoder(taken, EncoderIdentity.of(latents))
    record.finish(taken, "00000")
    keys = [f"{row:05d}" for row in range(8)]
    assert read_buckets(taken, "00000", keys).tolist() == read_buckets(latents, "00000", keys).tolist()
    for key in keys:
        ours, theirs = (LatentRows(artifact, "latents").read([("00000", key)]) for artifact in (taken, latents))
        np.testing.assert_array_equal(ours, theirs)
