"""The decoder's configuration: plain data that refuses what cannot be built."""

import json
import subprocess
import sys

import pytest

from models.decoders.pixel_diffusion.spec import PixelDiffusionSpec
from models.decoders.registry import read_spec
from models.diffusion.spec import ProcessConfig
from tests.specs import make_spec


def test_it_survives_a_round_trip_through_json():
    process = ProcessConfig(path="ddpm", target="velocity", zero_terminal_snr=True)
    spec = make_spec(PixelDiffusionSpec, embed_dim=16, resolution=64, channels=(32, 64), process=process)
    assert PixelDiffusionSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("embed_dim", 0, "1 or more"),
        ("channels", (), "one width per level"),
        ("channels", (32, 50), "multiples of 32"),
        ("attention_levels", 3, "0 to 2 levels"),
        ("resolution", 40, "a multiple of 16"),
        ("layout_channels", -1, "0 or more"),
        ("layout_resolution", 0, "a divisor of the U-Net's grid, 8"),
        ("layout_resolution", 3, "a divisor of the U-Net's grid, 8"),
        ("layout_hidden", 0, "1 or more"),
        ("empty_probability", 1.0, "0 up to, not including, 1"),
        ("embedding_noise", -0.1, "0 or more"),
    ],
)
def test_impossible_values_are_refused_by_name(field, value, allowed):
    fields = {"embed_dim": 16, "resolution": 64, "channels": (32, 64), field: value}
    with pytest.raises(ValueError, match=rf"(PixelDiffusionSpec|PixelUNet)\.{field}: found .*expected {allowed}"):
        make_spec(PixelDiffusionSpec, **fields)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"path": "ode"}, "path: found 'ode': expected flow or ddpm"),
        ({"target": "noise"}, "target: found 'noise': expected one of sample, velocity on the path flow"),
        ({"path": "ddpm", "schedule": "square"}, "schedule: found 'square': expected cosine or linear"),
        ({"path": "ddpm", "loss_weight": "snr"}, "loss_weight: found 'snr': expected min_snr, uniform or p2"),
        ({"min_snr_gamma": 0.0}, "min_snr_gamma: found 0.0: expected above 0"),
        ({"zero_terminal_snr": True}, "zero_terminal_snr: found True: expected false on the path flow"),
        ({"path": "ddpm", "target": "noise", "zero_terminal_snr": True}, "expected false where target is noise"),
    ],
)
def test_processes_without_a_meaning_are_refused(fields, fault):
    with pytest.raises(ValueError, match=fault):
        ProcessConfig(**fields)


def test_an_unknown_kind_is_reported_with_the_known_ones():
    with pytest.raises(ValueError, match=r"found kind 'magic': expected one of pixel_diffusion"):
        read_spec({"kind": "magic"})


def test_it_can_be_read_without_torch():
    probe = "import sys, models.decoders.registry, models.autoencoders.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
