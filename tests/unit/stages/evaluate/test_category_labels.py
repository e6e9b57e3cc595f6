"""Every category has a figure of its own, under a name that MLflow takes."""

import pytest
from mlflow.utils.validation import validate_param_and_metric_name

from stages.evaluate.category_labels import category_labels
from stages.evaluate.distances import Figure
from stages.evaluate.results import Results


def label(category: str) -> str:
    return category_labels([category])[category]


def test_letters_of_any_script_stay() -> None:
    for category in ("Category/动物", "Category/食物", "Категория/Еда", "Category/Outdoor Scenes", "Category/a.b-c_1"):
        assert label(category) == category


@pytest.mark.parametrize("one", ["Category/A/B", "Category/A&B"])
@pytest.mark.parametrize("others", [("Category/动物", "Category/食物"), ("Category/A B", "Category/ab")])
def test_similar_categories_have_names_of_their_own_in_any_order(one: str, others: tuple[str, str]) -> None:
    categories = ["Category/A/B", "Category/A&B", *others]
    labels = category_labels(categories)
    assert len(set(labels.values())) == len(categories)
    assert [labels[other] for other in others] == list(others)
    assert labels == category_labels(categories[::-1])
    assert labels[one].startswith("Category/A_B_")
    assert label(one) == "Category/A_B", "alone, it needs no more"


def test_all_names_are_those_that_mlflow_takes() -> None:
    odd = ["Category/..", "Category/.", "Category/", "/x", "Category/%", "Category/😀", "Category/हिन्दी", "a/b/../c"]
    categories = [*odd, "Category/" + "long " * 99 + "one", "Category/" + "long " * 99 + "two"]
    names = [f"clip_score/conditioning/{one}" for one in category_labels(categories).values()]
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
