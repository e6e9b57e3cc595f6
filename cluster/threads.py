"""Give this process the number of compute threads that Ray granted it."""

import os
import sys


def use_cpus(count: int) -> None:
    """Set the thread count for libraries loaded later and, where torch is loaded already, for torch."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
