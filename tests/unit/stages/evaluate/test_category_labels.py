"""Every category has a figure of its own, under a name that MLflow takes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from mlflow.utils.validation import validate_param_and_metric_name

from stages.evaluate.category_labels import Category, category_labels
from stages.evaluate.distances import Figure
from stages.evaluate.results import Results, read_prompts
from stages.formats.generated_images import GeneratedRow, GeneratedUnit, gather_rows, image_file, writing_images
from stages.storage.artifact import Output


def labels_of(categories: Sequence[str]) -> dict[str, str]:
    """Return labels of categories <column>/<value>, whose columns have no slash."""
    named = {Category(*category.split("/", 1)): category for category in categories}
    return {named[category]: found for category, found in category_labels(named).items()}


def label(category: str) -> str:
    return labels_of([category])[category]


def test_letters_of_any_script_stay() -> None:
    for category in ("Category/动物", "Category/食物", "Категория/Еда", "Category/Outdoor Scenes", "Category/a.b-c_1"):
        assert label(category) == category


@pytest.mark.parametrize("one", ["Category/A/B", "Category/A&B"])
@pytest.mark.parametrize("others", [("Category/动物", "Category/食物"), ("Category/A B", "Category/ab")])
def test_similar_categories_have_names_of_their_own_in_any_order(one: str, others: tuple[str, str]) -> None:
    categories = ["Category/A/B", "Category/A&B", *others]
    labels = labels_of(categories)
    assert len(set(labels.values())) == len(categories)
    assert [labels[other] for other in others] == list(others)
    assert labels == labels_of(categories[::-1])
    assert labels[one].startswith("Category/A_B_")
    assert label(one) == "Category/A_B", "alone, it needs no more"


def test_a_slash_in_a_column_is_none_between_column_and_value(tmp_path: Path) -> None:
    generated = Output(str(tmp_path), "generate", "g0")
    columns = [{"a": "b/c"}, {"a/b": "c"}, {"a": "b/c", "a/b": "c"}, {"a/b": "d", "a": "b"}]
    with writing_images(generated, "prior", 0, in_shards=False) as add:
        for number, one in enumerate(columns):
            file = image_file("prior", number)
            row = GeneratedRow("prior", number, file, "x", 0, settings={}, scene=None, categories=one)
            add(row, np.zeros((2, 2, 3), dtype=np.uint8), None)
    unit = GeneratedUnit("prior", 0, len(columns)).name
    gather_rows(generated, [unit])
    found = read_prompts(generated, "prior").categories
    assert {tuple(category): list(numbers) for category, numbers in found.items()} == {
        ("a", "b/c"): [0, 2], ("a/b", "c"): [1, 2], ("a/b", "d"): [3], ("a", "b"): [3],
    }  # fmt: skip
    labels = category_labels(found)
    assert [labels[Category(*one)] for one in (("a", "b"), ("a", "b/c"), ("a/b", "c"), ("a/b", "d"))] == [
        "a/b", "a/b_c", "a_b/c", "a_b/d",
    ]  # fmt: skip
    assert {category.text for category in found} == {"a/b", "a/b/c", '"a/b"/c', '"a/b"/d'}
    alike = category_labels([Category("a/b", "c"), Category("a_b", "c")])
    assert len(set(alike.values())) == 2


def test_all_names_are_those_that_mlflow_takes() -> None:
    odd = ["Category/..", "Category/.", "Category/", "/x", "Category/%", "Category/😀", "Category/हिन्दी", "a/b/../c"]
    categories = [*odd, "Category/" + "long " * 99 + "one", "Category/" + "long " * 99 + "two"]
    names = [f"clip_score/conditioning/{one}" for one in labels_of(categories).values()]
    assert len(set(names)) == len(categories)
    for name in names:
        assert validate_param_and_metric_name(name)
        assert not {"", ".", ".."} & set(name.split("/"))
        assert len(name) < 240


def test_a_figure_is_never_overwritten() -> None:
    results = Results()
    results.add({"a": Figure(1.0, 2)}, {})
    results.add({"a": Figure(3.0, 4)}, {}, "x/")
    with pytest.raises(ValueError, match="found two figures named x/a"):
        results.add({"a": Figure(5.0, 4)}, {"seed": "1"}, "x/")
    assert results.metrics == {"a": 1.0, "x/a": 3.0}
