"""Whether validations became worse again while training went on."""

import math
from collections.abc import Callable, Mapping

from stages.formats.checkpoints import ValidationsRecord
from stages.storage.artifact import Output
from stages.training.config import TrainingConfig

NOTE = "overfitting"
"""The name of the note that says so."""
_LEAST_RISE = 0.05  # of a loss, relative; or fall of a cosine: less may be noise
_HIGHEST = frozenset({"cosine_true", "retrieval_image_of_text"})


class ValidationHistory:
    """The metrics of all validations so far whose direction is known, those before a restart included."""

    def __init__(
        self, config: TrainingConfig, output: Output, first_step: int, has_direction: Callable[[str, int], bool]
    ) -> None:
        """Take what was found before the first step; ``has_direction``: whether weights may be compared by a metric."""
        self._config, self._output, self._has_direction = config, output, has_direction
        self._by_step = dict(ValidationsRecord.until(output, first_step).by_step)

    def note(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the metrics of a validation, and keep them for a restart."""
        comparable = {name: value for name, value in metrics.items() if _sign(name) and self._has_direction(name, step)}
        known = {name: value for name, value in comparable.items() if math.isfinite(value)}
        if known:
            self._by_step[step] = self._by_step.get(step, {}) | known
            ValidationsRecord(by_step=dict(sorted(self._by_step.items()))).write(self._output)

    def remark(self, num_steps: int) -> dict[str, str]:
        """Return a note where a validation before the end was clearly better than the last."""
        last = self._by_step.get(num_steps, {})
        for name, now in sorted(last.items()):
            found = [(step, metrics[name]) for step, metrics in sorted(self._by_step.items()) if name in metrics]
            step, value = max(found, key=lambda one: _sign(name) * one[1])
            if step == num_steps or abs(now - value) < _LEAST_RISE * max(abs(value), 1e-9):
                continue
            kept = (
                "the weights of the best validation are kept"
                if self._config.best is not None
                else "stop there, keep the best (training.best), augment, or give more images"
            )
            return {NOTE: f"{name} was {value:.4g} at step {step:,} and {now:.4g} at step {num_steps:,}: {kept}"}
        return {}


def _sign(name: str) -> int:
    """Return 1 where more is better, -1 where less is, and 0 where it is not known."""
    return 1 if name in _HIGHEST else -1 if name == "loss" or name.endswith("_loss") else 0
