"""Limit this process to the compute threads that Ray allocated to it."""

import os
import sys


def use_cpus(count: int) -> None:
    """Set the thread count for libraries that are loaded later, and for torch if it is loaded already."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
