"""What a training has logged so far, kept with each of its checkpoints and with the trained model.

What a killed process had reported, and nobody had recorded yet, is not lost so: whoever goes on from a checkpoint does
not take its steps again.
"""

import json
from collections.abc import Iterable

from stages.contract.documents import Document
from stages.contract.events import Metrics
from stages.contract.parsing import load_json, parsing
from stages.storage.artifact import Artifact, Output

TRAINING_LOG = "training_log.json"
"""The name of the trained model's."""
_MOST_BYTES = 1 << 30


class _Log(Document):
    """Step, time in milliseconds, and the numbers, of each report in its order."""

    rows: tuple[tuple[int, int, dict[str, float]], ...]


def write_log(output: Output, name: str, logged: Iterable[Metrics]) -> None:
    """Write what was logged; in ``collecting()``, with a checksum in the record of the unit."""
    rows = [[row.step, row.time, {key: float(value) for key, value in row.values.items()}] for row in logged]
    output.write_bytes(name, json.dumps({"rows": rows}, separators=(",", ":")).encode())


def read_log(artifact: Artifact, name: str, record: str) -> tuple[Metrics, ...]:
    """Return what was logged, by the file that the record of a unit names; nothing where it names none.

    Raises:
        ArtifactError: it is not there any more, or not what was written.
    """
    if name not in (artifact.read_record(record)[1] or {}):
        return ()  # an earlier version made the unit
    with artifact.open(name, record=record) as file:
        content = file.read()
    with parsing(lambda reason: artifact.damaged_file(name, record, f"damaged content ({reason})")):
        document = load_json(content, max_bytes=_MOST_BYTES)
    return tuple(Metrics(values, step, time=time) for step, time, values in _Log.parse(document, artifact, name).rows)
