"""Keep the averaged weights of the best validation."""

import math
from collections.abc import Mapping

from torch import Tensor, nn

from stages.contract.errors import ArtifactError, InputFault, nearest
from stages.formats.checkpoints import BestRecord, read_best_weights, write_best
from stages.storage.artifact import Output
from stages.training.config import BestConfig


def only_finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics without those that are no finite numbers, such as a ratio to 0: no record holds them."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def keep_if_best(config: BestConfig, output: Output, found: BestRecord, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of a validation where none before was better."""
    name = config.metric
    if name not in found.metrics:
        raise InputFault(
            f"training.best.metric: found {name!r}{nearest(name, found.metrics)}: expected a metric of the validation "
            f"({', '.join(sorted(found.metrics))}): give one of these"
        )
    old = BestRecord.read(output)
    value, before = found.metrics[name], None if old is None else old.metrics.get(name)
    if not math.isfinite(value):
        return
    found = found.model_copy(update={"metrics": only_finite(found.metrics)})
    if before is None or (value < before if config.mode == "lowest" else value > before):
        write_best(output, found, weights)


def load_best(output: Output, model: nn.Module) -> BestRecord:
    """Load the best weights into the model, and return the record of their validation."""
    best = BestRecord.read(output)
    if best is None:
        raise ArtifactError(f"training: {output.uri} holds no weights of a best validation: run again")
    model.load_state_dict(read_best_weights(output, best), strict=False)  # buffers that are not saved may be missing
    return best
