"""Processes of stages that are lost: how often, since the stage last got further."""

from collections import Counter

from stages.storage.artifact import UNITS, Artifact
from stages.storage.folder import CHECKPOINTS


class StageLosses:
    """The losses of one run's stages.

    A stage has got further where something is there that was at none of its losses before. The number of its files says
    nothing of that: a training that keeps its two newest checkpoints always has two.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._seen: dict[str, set[str]] = {}

    def note(self, artifact: Artifact) -> int:
        """Note a loss of the process that makes the artifact; return how many there were without getting further."""
        # A training has a record of each checkpoint among the units; a fit of Gaussians has states without one.
        finished = {*artifact.glob(f"{UNITS}/*.json"), *artifact.glob(f"{CHECKPOINTS}/*.safetensors")}
        seen = self._seen.setdefault(artifact.stage, set())
        if finished - seen:
            self._counts[artifact.stage] = 0
            seen |= finished
        self._counts[artifact.stage] += 1
        return self._counts[artifact.stage]

    def of(self, stage: str) -> int:
        """Return how many losses a stage has had without getting further."""
        return self._counts[stage]
