"""Encoding images once: joined by key, scaled to unit variance, resumed by the shard."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from pydantic import TypeAdapter, ValidationError

from cluster.item_progress import begin_item, samples_of_item
from models.decoders.base import from_bytes
from stages.contract.errors import ArtifactError, InputFault
from stages.encode_latents.check import check
from stages.encode_latents.config import EncodeLatentsConfig
from stages.encode_latents.stage import run
from stages.formats.images import decode_image, square
from stages.formats.latents import LatentRows, LatentsIdentity
from stages.formats.model_folders import save_model
from stages.inference.autoencoder import load_autoencoder
from stages.storage.artifact import Artifact, Output
from tests.factories import folder_digests, interrupt_after
from tests.specs import make_autoencoder_spec
from tests.unit.stages.encoded import SIDE, SIZES, context, encoded_square, key_of, make_shards


def save_autoencoder(folder: Path, kind: str, *, seed: int = 0) -> Output:
    torch.manual_seed(seed)
    config = make_autoencoder_spec(
        kind, resolution=SIDE, unshuffle=4, channels=(16,), blocks_per_level=1, latent_channels=3,
        attention=False, num_codes=8,
    )  # fmt: skip
    output = Output(str(folder), "train_autoencoder", "c")
    save_model(output, "autoencoder", config.build(), {"kind": kind, "model": config.to_dict()})
    return output


def config(**fields: Any) -> Any:
    return TypeAdapter(EncodeLatentsConfig).validate_python({"kind": "autoencoder", "batch_size": 4} | fields)


def encode(folder: Path, inputs: dict[str, Artifact], settings: Any = None, **options: Any) -> tuple[Output, Any]:
    output = Output(str(folder), "encode_latents", "d")
    return output, run(settings or config(), inputs, output, context(**options))


def make_inputs(folder: Path, kind: str = "kl", **options: Any) -> dict[str, Artifact]:
    return {
        "download_shards": make_shards(folder / "s", **options),
        "train_autoencoder": save_autoencoder(folder / "ae", kind),
    }


def image(row: int) -> torch.Tensor:
    pixels = square(decode_image(encoded_square(row), where="here"), SIDE)
    return from_bytes(torch.from_numpy(pixels.copy())[None])


@pytest.mark.parametrize("kind", ["kl", "vq"])
@torch.no_grad()
def test_every_image_is_found_by_its_key(tmp_path: Path, kind: str) -> None:
    inputs = make_inputs(tmp_path, kind)
    begin_item()
    output, summary = encode(tmp_path / "out", inputs)
    assert summary.items == sum(SIZES)
    assert samples_of_item() == SIZES[-1]
    model = load_autoencoder(inputs["train_autoencoder"])
    found = LatentRows(output, "latents").read([("00002", key_of(30)), ("00000", key_of(3))])
    assert found.dtype == np.float16
    for latents, row in zip(found, (30, 3), strict=True):
        np.testing.assert_allclose(latents, model.encode(image(row))[0], atol=2e-3)
    if kind == "vq":
        codes = LatentRows(output, "codes").read([("00001", key_of(20))])
        assert np.array_equal(codes, model.encode_codes(image(20)).numpy())
    assert LatentsIdentity.of(output).num_codes == (8 if kind == "vq" else None)


def test_scaled_latents_have_unit_variance(tmp_path: Path) -> None:
    output, summary = encode(tmp_path / "out", make_inputs(tmp_path))
    about = LatentsIdentity.of(output)
    shards = [np.load(path).astype(np.float64) for path in sorted((tmp_path / "out/latents").iterdir())]
    scaled = about.scale_factor * (np.concatenate(shards) - about.shift)
    assert scaled.var() == pytest.approx(1.0, abs=2e-3)  # half precision rounds what is stored
    assert scaled.mean() == pytest.approx(0.0, abs=2e-3)
    assert summary.metrics["scale_factor"] == about.scale_factor


def test_an_interrupted_run_goes_on_with_the_next_shard(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    encode(tmp_path / "whole", inputs)
    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path / "cut", inputs, map_shards=interrupt_after(2))
    first = (tmp_path / "cut/latents/latents_00000.npy").stat().st_mtime_ns
    encode(tmp_path / "cut", inputs)
    assert (tmp_path / "cut/latents/latents_00000.npy").stat().st_mtime_ns == first
    assert folder_digests(tmp_path / "cut") == folder_digests(tmp_path / "whole")


def test_images_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    output, summary = encode(tmp_path / "out", make_inputs(tmp_path, corrupt=(2, 15, 16)))
    assert summary.counts == {"images": sum(SIZES) - 3, "failed_corrupt_image": 3}
    with pytest.raises(InputFault, match="shard 00000 has no latents of key '00002'"):
        LatentRows(output, "latents").read([("00000", key_of(2))])


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, corrupt=tuple(range(sum(SIZES))))
    with pytest.raises(InputFault, match=r"hold no readable image .*corrupt_image.: 34"):
        encode(tmp_path / "out", inputs)


def test_latents_of_other_weights_are_not_mixed(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path / "out", inputs, map_shards=interrupt_after(1))
    changed = inputs | {"train_autoencoder": save_autoencoder(tmp_path / "other", "kl", seed=1)}
    with pytest.raises(ArtifactError, match="the weights behind the name have changed"):
        encode(tmp_path / "out", changed)


def test_an_autoencoder_that_gives_no_numbers_is_reported(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    model = load_autoencoder(inputs["train_autoencoder"])
    for weight in model.network.quant_conv.parameters():
        weight.fill_(torch.nan)
    save_model(
        Output(str(tmp_path / "ae"), "a", "b"), "autoencoder", model, {"kind": "kl", "model": model.spec.to_dict()}
    )
    with pytest.raises(ArtifactError, match="gives a latent of nan: allowed is up to 65504"):
        encode(tmp_path / "out", inputs)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny autoencoder in the folder format of Stable Diffusion checkpoints."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=SIDE,
        scaling_factor=0.25,
    )
    folder = tmp_path_factory.mktemp("checkpoint")
    vae.save_pretrained(folder / "vae")
    return folder


@torch.no_grad()
def test_a_stable_diffusion_checkpoint_encodes_by_its_own_scale(tmp_path: Path, checkpoint: Path) -> None:
    settings = config(kind="stable_diffusion", path=str(checkpoint), resolution=SIDE)
    check(settings)
    assert settings.inputs == ("download_shards",)
    output, _ = encode(tmp_path / "out", {"download_shards": make_shards(tmp_path / "s")}, settings)
    about = LatentsIdentity.of(output)
    assert (about.kind, about.shape, about.scale_factor, about.shift) == ("stable_diffusion", (4, 8, 8), 0.25, 0.0)
    assert about.std > 0
    vae = AutoencoderKL.from_pretrained(checkpoint, subfolder="vae")
    found = LatentRows(output, "latents").read([("00001", key_of(17))])
    np.testing.assert_allclose(found, vae.encode(image(17)).latent_dist.mean, atol=2e-3)


def test_a_checkpoint_is_identified_by_its_autoencoder_not_its_path(tmp_path: Path, checkpoint: Path) -> None:
    first = config(kind="stable_diffusion", path=str(checkpoint)).identity()
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "vae").symlink_to(checkpoint / "vae")
    (moved / "unet").mkdir()
    (moved / "unet/config.json").write_text("{}")
    assert config(kind="stable_diffusion", path=str(moved)).identity() == first


@pytest.mark.parametrize(
    ("fields", "found"),
    [({}, "found neither path and name"), ({"path": "x", "name": "y"}, "found both path and name")],
)
def test_a_checkpoint_has_one_source(fields: dict[str, str], found: str) -> None:
    with pytest.raises(ValidationError, match=found):
        config(kind="stable_diffusion", **fields)


def test_what_is_no_checkpoint_is_reported(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(InputFault, match=r"encode_latents\.path: .* has no vae/config\.json"):
        check(config(kind="stable_diffusion", path=str(tmp_path)))
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/config.json").write_text("{}")
    inputs: dict[str, Artifact] = {"download_shards": make_shards(tmp_path / "s")}
    with pytest.raises(InputFault, match="diffusers cannot load the autoencoder of"):
        encode(tmp_path / "out", inputs, config(kind="stable_diffusion", path=str(tmp_path), resolution=SIDE))
    with pytest.raises(InputFault, match=r"encode_latents\.resolution: found 15: expected a multiple of 2"):
        encode(tmp_path / "out2", inputs, config(kind="stable_diffusion", path=str(checkpoint), resolution=15))
