import pytest
from pydantic import TypeAdapter, ValidationError

from stages.contract.measures import Measure, protocol_differences, protocol_digest

PROTOCOL = {"features": "Inception-v3", "images": "240", "seed": "0"}


def test_a_digest_depends_on_all_of_a_protocol_and_not_on_its_order() -> None:
    assert protocol_digest(PROTOCOL) == protocol_digest(dict(reversed(PROTOCOL.items())))
    others = [PROTOCOL | {"images": "241"}, {"features": "Inception-v3", "images": "240"}, PROTOCOL | {"resize": ""}]
    assert len({protocol_digest(one) for one in [PROTOCOL, *others]}) == 4


def test_differences_name_both_sides() -> None:
    assert protocol_differences(PROTOCOL, PROTOCOL) == {}
    other = {"features": "Inception-v3", "images": "30000", "clip": "ViT"}
    assert protocol_differences(PROTOCOL, other) == {"clip": ("", "ViT"), "images": ("240", "30000"), "seed": ("0", "")}


def test_a_measure_is_read_back_as_it_was_written() -> None:
    measures = TypeAdapter(dict[str, Measure])
    content = {"fid": {"value": 1.5, "low": None, "high": 2.0, "n": 240, "protocol": "ab"}}
    assert measures.dump_python(measures.validate_python(content)) == content
    with pytest.raises(ValidationError):
        measures.validate_python({"fid": content["fid"] | {"median": 1.0}})
