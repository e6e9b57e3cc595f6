"""The generator: its condition shows, samples are their own, weights survive a file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.decoders.registry import read_spec
from models.decoders.sampling import DecoderSampling
from models.decoders.stylegan2.spec import StyleGan2Spec
from tests.specs import make_spec
from tests.unit.models.decoders.stylegan2.factories import EMBED, LATENT, SIDE, make_batch, make_generator

ONE_PASS = DecoderSampling()


@pytest.mark.parametrize("changes", [{}, {"start": "embedding"}, {"patch_size": 1}, {"condition_dim": 0},
                                     {"channels": (4, 4, 4), "patch_size": 1}, {"layer_noise": False}])  # fmt: skip
def test_every_shape_is_rendered(changes: dict[str, Any]) -> None:
    images = make_generator(**changes).sample(torch.randn(2, EMBED), [1, 2], ONE_PASS)
    assert images.shape == (2, 3, SIDE, SIDE)
    assert float(images.abs().max()) <= 1
    assert float(images.std()) > 0.01


def test_embedding_noise_and_seed_change_the_image() -> None:
    generator = make_generator()
    z = torch.randn(1, EMBED)
    first = generator.sample(z, [1], ONE_PASS)
    assert torch.equal(first, generator.sample(z, [1], ONE_PASS))
    assert float((first - generator.sample(-z, [1], ONE_PASS)).abs().mean()) > 0.01
    assert float((first - generator.sample(z, [2], ONE_PASS)).abs().mean()) > 0.01
    batch = make_batch(generator)
    generated = [generator(batch["latent"], batch["embeddings"], s * batch["noise"]).detach() for s in (1, -1)]
    assert float((generated[0] - generated[1]).abs().mean()) > 0.01


@pytest.mark.parametrize("changes", [{"condition_dim": 4, "mapping_rate": 1e-9}, {"start": "embedding"}])
def test_the_embedding_reaches_the_layers_beside_the_mapping(changes: dict[str, Any]) -> None:
    generator = make_generator(**changes)
    w, noise = torch.zeros(1, 7), torch.zeros(1, generator.noise_size)
    one, other = (generator.synthesis(w, u, noise) for u in (torch.ones(1, EMBED), -torch.ones(1, EMBED)))
    assert float((one - other).detach().abs().mean()) > 0.01


def test_an_image_depends_on_its_own_embedding_and_seed_alone() -> None:
    generator, z = make_generator(), torch.randn(3, EMBED)
    together = generator.sample(z, [7, 8, 9], ONE_PASS)
    torch.testing.assert_close(generator.sample(z[1:2], [8], ONE_PASS), together[1:2])
    with pytest.raises(ValueError, match="found 2 seeds for 3 embeddings"):
        generator.sample(z, [1, 2], ONE_PASS)


def test_truncation_pulls_images_of_an_embedding_together() -> None:
    generator, z = make_generator(layer_noise=False, mapping_rate=1.0), torch.randn(1, EMBED).expand(8, -1)

    def spread(truncation: float) -> float:
        return float(generator.sample(z, range(8), DecoderSampling(truncation=truncation)).var(dim=0).mean())

    assert spread(0.0) < 1e-8
    assert 0 < spread(0.5) < spread(1.0)


def test_scale_and_shift_of_embeddings_are_taken_out() -> None:
    generator, z = make_generator(), torch.randn(2, EMBED)
    before = generator.sample(z, [1, 2], ONE_PASS)
    generator.set_embedding_statistics(torch.full((EMBED,), 3.0), torch.full((EMBED,), 10.0))
    torch.testing.assert_close(generator.sample(z * 10 + 3, [1, 2], ONE_PASS), before, rtol=1e-4, atol=1e-4)


def test_weights_and_configuration_survive_a_file(tmp_path: Path) -> None:
    generator = make_generator(start="embedding")
    generator.set_embedding_statistics(torch.ones(EMBED), torch.full((EMBED,), 2.0))
    save_file(generator.state_dict(), tmp_path / "model.safetensors")
    again = read_spec(generator.spec.to_dict()).build()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert again.spec == generator.spec
    z = torch.randn(2, EMBED)
    assert torch.equal(again.sample(z, [1, 2], ONE_PASS), generator.sample(z, [1, 2], ONE_PASS))


def test_it_generates_in_bf16() -> None:
    generator, batch = make_generator(), make_batch(make_generator())
    inputs = (batch["latent"], batch["embeddings"], batch["noise"])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        lowered = generator(*inputs)
    assert lowered.dtype == torch.float32
    assert float((lowered - generator(*inputs).detach()).abs().mean()) < 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 20}, r"resolution: found 20: expected a multiple of 8 .* 32 or more"),
        ({"start": "noise"}, "start: found 'noise': expected one of"),
        ({"channels": ()}, "channels: found"),
        ({"mapping_rate": 0}, "mapping_rate: found 0: expected more than 0"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"embed_dim": 4, "resolution": 64, "channels": (8, 8), "patch_size": 4}
    with pytest.raises(ValueError, match=message):
        make_spec(StyleGan2Spec, **(fields | changes))


def test_grids_double_up_to_the_resolution() -> None:
    spec = make_spec(StyleGan2Spec, embed_dim=4, resolution=256, channels=(8,) * 7, patch_size=1)
    assert spec.grids == (4, 8, 16, 32, 64, 128, 256)
    assert make_spec(StyleGan2Spec, embed_dim=4, resolution=64, channels=(8, 8), patch_size=4).grids == (8, 16)
    assert make_generator().spec.network.latent_dim == LATENT
