"""What a training has logged so far, kept with each of its checkpoints and with the trained model.

What a killed process had reported, and nobody had recorded yet, is not lost so: whoever goes on from a checkpoint does
not take its steps again.
"""

import json

from stages.contract.documents import Document
from stages.contract.events import LoggedSteps, Metrics, RolledBack
from stages.contract.parsing import load_json, parsing
from stages.storage.artifact import Artifact, Output

TRAINING_LOG = "training_log.json"
"""The name of the trained model's."""
_MOST_BYTES = 1 << 30


class _Log(Document):
    """Step, time in milliseconds, and the numbers, of each report in its order; and to, from and time of roll backs."""

    rows: tuple[tuple[int, int, dict[str, float]], ...]
    roll_backs: tuple[tuple[int, int, int], ...] = ()


def write_log(output: Output, name: str, logged: LoggedSteps) -> None:
    """Write what was logged; in ``collecting()``, with a checksum in the record of the unit."""
    rows = [[row.step, row.time, {key: float(value) for key, value in row.values.items()}] for row in logged.rows]
    content: dict[str, object] = {"rows": rows}
    if logged.roll_backs:
        content["roll_backs"] = [[one.to_step, one.from_step, one.time] for one in logged.roll_backs]
    output.write_bytes(name, json.dumps(content, separators=(",", ":")).encode())


def read_log(artifact: Artifact, name: str, record: str) -> LoggedSteps:
    """Return what was logged, by the file that the record of a unit names; nothing where it names none.

    Raises:
        ArtifactError: it is not there any more, or not what was written.
    """
    if name not in (artifact.read_record(record)[1] or {}):
        return LoggedSteps()  # an earlier version made the unit
    with artifact.open(name, record=record) as file:
        content = file.read()
    with parsing(lambda reason: artifact.damaged_file(name, record, f"damaged content ({reason})")):
        document = load_json(content, max_bytes=_MOST_BYTES)
    found = _Log.parse(document, artifact, name)
    rows = (Metrics(values, step, time=time) for step, time, values in found.rows)
    return LoggedSteps(tuple(rows), tuple(RolledBack(*one) for one in found.roll_backs))
