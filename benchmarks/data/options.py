"""The options of every benchmark of the data stages."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How much to measure."""

    small: bool = False  # sizes for a first look
    pairs: int = 5  # runs of each side, in turn
    threads: int = 1  # of each side
    clip_retrieval: str = ""  # the Python of an environment that has it; none: not compared
