"""Figures side by side and against captions: those that were not measured alike stand apart, with what differs."""

from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.dashboard.protocol_groups import against_fraction, side_by_side
from pipeline.record import RunRecord
from tests.factories import make_entry, make_record

NAME = "evaluate/frechet_distance"


def record(
    run: str, value: float, *, fraction: float = 0.1, seed: int = 0, width: int = 32, data: int = 1,
    protocol: Mapping[str, str] | None = None,
) -> RunRecord:  # fmt: skip
    identity = {"kind": "shifted", "captions": {"fraction": fraction, "seed": seed}, "network": {"width": width}}
    plan = {
        "download_shards": {"fingerprint": "d", "identity": {"source": {"seed": data}}},
        "train_prior": {"fingerprint": "p", "identity": identity | {"seed": seed}},
    }
    changes: dict[str, Any] = {"plan": plan, "metrics": {NAME: value}, "stages": [make_entry("evaluate")]}
    if protocol is not None:
        digest = "-".join(protocol.values())
        measure = {"value": value, "low": value - 1, "high": value + 1, "n": 240, "protocol": digest}
        changes |= {"measures": {NAME: measure}, "protocols": {digest: protocol}}
    return make_record(run, **changes)


ALIKE = {"features": "CLIP"}
OTHER = {"features": "Inception"}


def test_figures_of_unlike_protocols_are_in_groups_of_their_own() -> None:
    records = [record("a-1", 1, protocol=ALIKE), record("b-1", 2, protocol=OTHER), record("c-1", 3, protocol=ALIKE)]
    records += [record("d-1", 4), make_record("e-1")]
    (found,) = side_by_side(records, [NAME, "evaluate/unknown"])
    assert found["groups"] == [
        {"runs": [0, 2], "is_recorded": True},
        {"runs": [1], "is_recorded": True},
        {"runs": [3], "is_recorded": False},
    ]
    assert found["differences"] == [
        f"{NAME}: b-1 cannot be compared with a-1, c-1: features Inception, not CLIP",
        f"{NAME}: d-1 cannot be compared with a-1, c-1: its protocol was not recorded",
    ]


def test_seeds_are_one_point_with_their_spread_and_other_settings_are_another_line() -> None:
    records = [
        record("a-1", 4.0, seed=0), record("a-2", 6.0, seed=1), record("a-3", 3.0, fraction=0.5),
        record("b-1", 9.0, width=64), record("b-2", 8.0, width=64, fraction=0.5), record("c-1", 7.0, data=2),
    ]  # fmt: skip
    (group,) = against_fraction(records, NAME)["groups"]
    points = {
        line["label"]: [
            (point["fraction"], point["mean"], point["std"], len(point["runs"])) for point in line["points"]
        ]
        for line in group["lines"]
    }
    assert points == {
        "a, \N{EM DASH}; download_shards.source.seed 1; train_prior.network.width 32": [
            (pytest.approx(0.1), 5.0, pytest.approx(2**0.5), 2),
            (pytest.approx(0.5), 3.0, None, 1),
        ],
        "b, \N{EM DASH}; download_shards.source.seed 1; train_prior.network.width 64": [
            (pytest.approx(0.1), 9.0, None, 1),
            (pytest.approx(0.5), 8.0, None, 1),
        ],
        "c, \N{EM DASH}; download_shards.source.seed 2; train_prior.network.width 32": [
            (pytest.approx(0.1), 7.0, None, 1)
        ],
    }


def test_a_line_joins_no_two_protocols_but_seeds_of_one() -> None:
    records = [
        record("a-1", 1.0, protocol=ALIKE | {"seed": "0"}),
        record("a-2", 3.0, protocol=ALIKE | {"seed": "1"}, seed=1),
    ]
    records += [
        record("a-3", 2.0, protocol=OTHER | {"seed": "0"}, fraction=0.5),
        make_record("x-1", metrics={NAME: 1.0}),
    ]
    found = against_fraction(records, NAME)
    means = [[point["mean"] for line in group["lines"] for point in line["points"]] for group in found["groups"]]
    assert means == [[2.0], [2.0]]
    assert [group["is_recorded"] for group in found["groups"]] == [True, True]
    (line,) = found["differences"]
    assert "a-3 cannot be compared with a-1, a-2: features Inception, not CLIP" in line
    run = found["groups"][0]["lines"][0]["points"][0]["runs"][0]
    assert (run["run"], run["low"], run["high"], run["n"]) == ("a-1", 0.0, 2.0, 240)
    assert against_fraction(records, "evaluate/unknown") == {"groups": [], "differences": []}
