"""Whether validations became worse again while training went on."""

from collections.abc import Mapping

from stages.training.config import TrainingConfig

NOTE = "overfitting"
"""The name of the note that says so."""
_LEAST_RISE = 0.05  # of a loss, relative; or fall of a cosine: less may be noise
_HIGHEST = frozenset({"cosine_true", "retrieval_image_of_text"})


class ValidationHistory:
    """The best value so far of each metric of validation whose direction is known; of this start of training alone."""

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._best: dict[str, tuple[float, int]] = {}
        self._last: dict[str, float] = {}

    def note(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the metrics of a validation."""
        for name, value in metrics.items():
            if (sign := _sign(name)) == 0:
                continue
            if name not in self._best or sign * value > sign * self._best[name][0]:
                self._best[name] = value, step
            self._last[name] = value

    def remark(self, num_steps: int) -> dict[str, str]:
        """Return a note where a validation before the end was clearly better than the last."""
        for name, (value, step) in sorted(self._best.items()):
            last = self._last[name]
            if step == num_steps or abs(last - value) < _LEAST_RISE * max(abs(value), 1e-9):
                continue
            kept = (
                "the weights of the best validation are kept"
                if self._config.best is not None
                else "stop there, keep the best (training.best), augment, or give more images"
            )
            return {NOTE: f"{name} was {value:.4g} at step {step:,} and {last:.4g} at step {num_steps:,}: {kept}"}
        return {}


def _sign(name: str) -> int:
    """Return 1 where more is better, -1 where less is, and 0 where it is not known."""
    return 1 if name in _HIGHEST else -1 if name == "loss" or name.endswith("_loss") else 0
