"""The decoder's configuration: plain data that refuses what cannot be built."""

import json
import subprocess
import sys

import pytest

from models.decoders.config import PixelDecoderConfig


def test_it_survives_a_round_trip_through_json():
    config = PixelDecoderConfig(embed_dim=16, channels=(32, 64))
    assert PixelDecoderConfig(**json.loads(json.dumps(config.to_dict()))) == config


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
        ("parametrization", "noise", "one of"),
        ("empty_probability", 1.0, "0 up to, not including, 1"),
        ("embedding_noise", -0.1, "0 or more"),
    ],
)
def test_impossible_values_are_refused_by_name(field, value, allowed):
    fields = {"embed_dim": 16, "channels": (32, 64), field: value}
    with pytest.raises(ValueError, match=rf"PixelDecoderConfig\.{field}: found .*expected {allowed}"):
        PixelDecoderConfig(**fields)


def test_it_can_be_read_without_torch():
    probe = "import sys, models.decoders.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
