import numpy as np
import pytest
from pydantic import ValidationError

from stages.formats.samples import sample_keys, uniform_number
from stages.formats.splits import SplitConfig, split_numbers
from stages.training.split_rows import SplitRows

NAMES = [f"{number}.jpg" for number in range(2000)]


def divided(names: list[str], config: SplitConfig, sizes: int = 7, least: int = 1) -> tuple[SplitRows, list[list[str]]]:
    shards = [sample_keys(names[first : first + sizes]) for first in range(0, len(names), sizes)]
    splits = SplitRows(shards)
    splits.record = splits.divide(config, least=least)  # type: ignore[attr-defined]
    return splits, shards


def trained(splits: SplitRows, shards: list[list[str]]) -> list[str]:
    counted = [(shard, row) for shard, size in enumerate(splits.train_sizes) for row in range(size)]
    return [shards[shard][row] for shard, row in splits.train(np.array(counted).reshape(-1, 2)).tolist()]


@pytest.mark.parametrize("sizes", [1, 7, 2000])
def test_every_image_is_in_one_part_whatever_the_shards(sizes: int) -> None:
    config = SplitConfig(validation=0.1, test=0.05)
    splits, shards = divided(NAMES, config, sizes)
    keys = [key for shard in shards for key in shard]
    numbers = split_numbers(keys, config)
    assert trained(splits, shards) == [key for key, n in zip(keys, numbers, strict=True) if n >= 0.15]
    assert [key for key, is_train in zip(keys, splits.is_train(), strict=True) if is_train] == trained(splits, shards)
    order = np.argsort(numbers)
    assert splits.validation_keys == [keys[row] for row in order if 0.05 <= numbers[row] < 0.15]
    assert [shards[s][r] for s, r in splits.validation.tolist()] == splits.validation_keys
    record = splits.record  # type: ignore[attr-defined]
    assert record.train_images + record.validation_images + record.test_images == 2000
    assert not record.too_few


def test_added_images_leave_the_others_where_they_were() -> None:
    config = SplitConfig()
    before, after = divided(NAMES, config)[0], divided(["a.jpg", *NAMES[40:], "b.jpg"], config, sizes=11)[0]
    old = sample_keys(NAMES[40:])
    assert [key for key in after.validation_keys if key in old] == [key for key in before.validation_keys if key in old]


def test_too_few_are_filled_up_by_the_next_numbers_and_said() -> None:
    splits, shards = divided(NAMES[:8], SplitConfig(validation=1e-9), least=3)
    keys = [key for shard in shards for key in shard]
    assert splits.validation_keys == [keys[row] for row in np.argsort(split_numbers(keys, SplitConfig()))[:3]]
    assert splits.record.too_few  # type: ignore[attr-defined]
    assert sum(splits.train_sizes) == 5
    assert sum(divided(NAMES[:2], SplitConfig(validation=1e-9), least=4)[0].train_sizes) == 1  # half of them


def test_a_split_leaves_something_to_train_on() -> None:
    with pytest.raises(ValidationError, match=r"validation is 0\.6 and test 0\.4, which leaves nothing to train on"):
        SplitConfig(validation=0.6, test=0.4)


def test_the_split_and_the_choice_of_captions_by_one_seed_are_independent() -> None:
    keys = sample_keys(map(str, range(4000)))
    put_aside = split_numbers(keys, SplitConfig(validation=0.1, seed=3)) < 0.1
    captioned = np.array([uniform_number(key, 3) < 0.1 for key in keys])
    assert captioned[put_aside].mean() == pytest.approx(0.1, abs=0.05)
