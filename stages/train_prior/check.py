"""Check what a prior's training reads from outside the store."""

from stages.contract.errors import InputFault
from stages.formats.model_folders import missing_files
from stages.storage.filesystems import explaining
from stages.train_prior.config import PriorConfig, SolvedPriorConfig, TrainedPriorConfig
from stages.training.initial_weights import check_initial


def check(config: PriorConfig) -> None:
    """Check that a teacher from elsewhere is there, and the weights that training begins with."""
    if isinstance(config, TrainedPriorConfig):
        check_initial(config)
    if not isinstance(config, SolvedPriorConfig) or config.distillation is None:
        return
    elsewhere, address = config.distillation.elsewhere(), config.distillation.teacher
    if elsewhere is None or address is None:
        return
    with explaining(address):
        missing = missing_files(*elsewhere)
    if missing:
        raise InputFault(
            f"train_prior.distillation.teacher: {address} has no {' and no '.join(missing)}: expected the folder "
            "prior/ of a train_prior artifact (`corgi status RUN --json` shows where artifacts lie)"
        )
