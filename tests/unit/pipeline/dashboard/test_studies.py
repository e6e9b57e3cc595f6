"""Human evaluation: pairs, random order and sides, votes that are stored at once, win rates against closed forms."""

import collections
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.dashboard.studies import MOST_PAIRS, NoStudy, Pair, Side, Studies, Vote, pairs_of
from pipeline.dashboard.win_rates import wilson_interval, win_rates
from pipeline.store import Store


@dataclass(frozen=True)
class Row:
    prompt: str
    seed: int
    set: str
    index: int


ROWS = [Row(f"prompt {number} <b>🐕</b>", number, "prior", number) for number in range(40)]


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    store = Store(str(tmp_path))
    store.open_for_writing()
    return Studies(store)


def test_pairs_are_of_the_same_prompt_and_seed() -> None:
    other = [Row(row.prompt, row.seed + (row.index == 3), row.set, 39 - row.index) for row in reversed(ROWS)]
    pairs = pairs_of([("a-1", ROWS), ("b-1", other)])
    assert len(pairs) == 39
    assert all(pair.first.index == pair.seed and pair.second.index == 39 - pair.seed for pair in pairs)
    assert [pair.seed for pair in pairs_of([("a-1", ROWS), ("b-1", other)], [ROWS[5].prompt, "unknown"])] == [5]
    assert len(pairs_of([("a-1", ROWS), ("b-1", ROWS), ("c-1", ROWS)])) == 3 * 40


def test_of_too_many_pairs_every_two_runs_keep_their_part() -> None:
    many = [Row("a", number, "prior", number) for number in range(MOST_PAIRS)]
    pairs = pairs_of([("a-1", many), ("b-1", many), ("c-1", many)])
    assert len(pairs) == MOST_PAIRS
    runs = collections.Counter((pair.first.run, pair.second.run) for pair in pairs)
    assert len(runs) == 3
    assert max(runs.values()) - min(runs.values()) <= 1


def test_order_and_sides_are_random_and_stay(studies: Studies) -> None:
    study = studies.create("which?", pairs_of([("a-1", ROWS), ("b-1", ROWS)]))
    raters = [studies.invite(study, name) for name in ("Ada", "Ben")]
    (ada, key), (ben, _) = raters
    assert sorted(ada.order) == list(range(40))
    assert ada.order != ben.order
    assert 5 < sum(ada.exchanged) < 35
    assert studies.rater_of(study.study, key) == ada
    assert [studies.rater_of(study.study, wrong) for wrong in ("", key[:-1], "x" * 32, "../" + key[3:])] == [None] * 4
    assert studies.rater_of("../" + study.study[3:], key) is None


def test_no_file_holds_a_link(studies: Studies, tmp_path: Path) -> None:
    study = studies.create("which?", pairs_of([("a-1", ROWS), ("b-1", ROWS)]))
    _, key = studies.invite(study, "Ada")
    files = [path for path in (tmp_path / "studies").rglob("*") if path.is_file()]
    assert len(files) == 2
    assert not any(key in path.read_text() or key in path.name for path in files)
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_a_vote_is_in_the_store_at_once_and_another_of_the_same_rater_replaces_it(studies: Studies) -> None:
    study = studies.create("which?", pairs_of([("a-1", ROWS), ("b-1", ROWS)]))
    rater, _ = studies.invite(study, "Ada")
    studies.vote(rater, 7, Vote(alignment="first", fidelity="tie"))
    again = Studies(studies._store)
    assert again.voted(rater) == {7}
    studies.vote(rater, 7, Vote(alignment="second", fidelity="tie"))
    ((pair, vote),) = again.votes(study.study)
    assert (pair, vote.alignment, vote.fidelity) == (7, "second", "tie")


def test_a_damaged_vote_is_left_out_and_the_others_count(studies: Studies, tmp_path: Path) -> None:
    study = studies.create("which?", pairs_of([("a-1", ROWS), ("b-1", ROWS)]))
    rater, _ = studies.invite(study, "Ada")
    for pair in (1, 2):
        studies.vote(rater, pair, Vote(alignment="first", fidelity="first"))
    (tmp_path / f"studies/{study.study}/votes/{rater.rater}/00001.json").write_text(json.dumps({"alignment": "left"}))
    assert [pair for pair, _ in studies.votes(study.study)] == [2]


def test_a_study_that_is_none(studies: Studies) -> None:
    for name in ("", "..", "0" * 12, "../runs"):
        with pytest.raises(NoStudy, match="is not in this store"):
            studies.study(name)


def pair(number: int) -> Pair:
    sides = [Side(run=run, set="prior", index=number) for run in ("a-1", "b-1")]
    return Pair(prompt=f"{number}", seed=0, first=sides[0], second=sides[1])


def test_win_rates() -> None:
    said = [(0, "first"), (0, "second"), (1, "first"), (2, "tie"), (3, "first")]
    votes = [(number, Vote.model_validate({"alignment": one, "fidelity": "second"})) for number, one in said]
    alignment, fidelity = win_rates([pair(number) for number in range(4)], votes)
    assert alignment["rate"] == pytest.approx((0.5 + 1 + 0.5 + 1) / 4)  # two raters of pair 0 disagree
    assert (alignment["firsts"], alignment["ties"], alignment["seconds"], alignment["pairs"]) == (3, 1, 1, 4)
    assert (fidelity["rate"], fidelity["low"]) == (0.0, 0.0)
    assert 0.4 < fidelity["high"] < 0.6  # z^2 / (n + z^2)


@pytest.mark.parametrize(
    ("fraction", "count", "expected"),
    [(0.5, 100, (0.4038, 0.5962)), (0.0, 10, (0.0, 0.2775)), (1.0, 10, (0.7225, 1.0)), (0.5, 0, (0.0, 1.0))],
)
def test_wilsons_interval(fraction: float, count: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(fraction, count) == pytest.approx(expected, abs=1e-4)
