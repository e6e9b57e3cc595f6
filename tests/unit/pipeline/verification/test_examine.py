"""``corgi verify --set-aside`` beside a driver that makes what is damaged again."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.store import Store
from pipeline.verification.examine import Verification, _set_aside
from stages.storage.artifact import Artifact, Output
from stages.storage.verification import verify


def make_unit(output: Output, unit: str) -> None:
    with output.collecting():
        output.write_bytes(f"files/{unit}", b"w" * 99)
        output.finish_unit(unit, {})


@pytest.mark.parametrize("is_made_again", [True, False])
def test_what_was_made_again_since_it_was_found_damaged_is_not_set_aside(
    tmp_path: Path, *, is_made_again: bool
) -> None:
    class Busy(Store):
        """A store of which another driver has just let the artifact go."""

        @contextmanager
        def lock(self, artifacts: Iterable[Artifact]) -> Iterator[None]:
            if is_made_again:
                make_unit(output, "00000")
            with super().lock(artifacts):
                yield

    store = Busy(str(tmp_path))
    output = store.output("embed_clip", "f0")
    for unit in ("00000", "00001"):
        make_unit(output, unit)
    output.finish_artifact({})
    output.write_bytes("_COMPLETE", b"")
    Path(output.path("files/00000")).write_bytes(b"x")
    artifact = store.artifact("embed_clip", "f0")
    with ThreadPoolExecutor(1) as pool:
        found = Verification(store, [verify(artifact, pool)])
    assert [error.unit for error in found.artifacts[0].damaged] == ["00000"]
    _set_aside(found)
    assert found.aside == {artifact.uri: [] if is_made_again else ["00000"]}
    assert artifact.is_complete == is_made_again
    assert output.exists("units/00000.json") == is_made_again
