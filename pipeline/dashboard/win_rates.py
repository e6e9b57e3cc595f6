"""Win rates of runs in blind pairs, with intervals.

Paper: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927): the interval
of a fraction p among n at z standard deviations, (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pipeline.dashboard.studies import Pair, Vote

Z_95: Final = 1.959964
QUESTIONS: Final = ("alignment", "fidelity")


def wilson_interval(fraction: float, count: int, z: float = Z_95) -> tuple[float, float]:
    """Return the ends of the interval of a fraction among so many; (0, 1) of none."""
    if count == 0:
        return 0.0, 1.0
    middle = fraction + z**2 / (2 * count)
    half = z * math.sqrt(fraction * (1 - fraction) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def win_rates(pairs: Sequence[Pair], votes: Iterable[tuple[int, Vote]]) -> list[dict[str, Any]]:
    """Return for every two runs and each question how often the first one won, tied and lost, and its win rate.

    A tie counts half. What several raters said of one pair is averaged, and counts once in the interval, since they
    saw the same images.
    """
    said: dict[tuple[str, str], dict[int, list[Vote]]] = {}
    for number, vote in votes:
        if number < len(pairs):
            runs = (pairs[number].first.run, pairs[number].second.run)
            said.setdefault(runs, {}).setdefault(number, []).append(vote)
    return [
        {"first": first, "second": second, "question": question} | _rate(by_pair, question)
        for (first, second), by_pair in sorted(said.items())
        for question in QUESTIONS
    ]


def _rate(by_pair: dict[int, list[Vote]], question: str) -> dict[str, Any]:
    choices = [[str(getattr(vote, question)) for vote in votes] for votes in by_pair.values()]
    every = [one for own in choices for one in own]
    worth = {"first": 1.0, "tie": 0.5, "second": 0.0}
    rate = sum(sum(worth[one] for one in own) / len(own) for own in choices) / len(choices)
    low, high = wilson_interval(rate, len(choices))
    counts = {"firsts": every.count("first"), "ties": every.count("tie"), "seconds": every.count("second")}
    return {"rate": rate, "low": low, "high": high, "votes": len(every), "pairs": len(choices), **counts}
