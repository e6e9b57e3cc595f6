"""Variables of the environment that carry a setting as a number say what is wrong with theirs."""

import pytest

from stages.contract.errors import InputFault
from stages.storage.cache import LocalCache
from stages.storage.patience import patience_seconds, patiently

NUMBERS = ("0", "2.5", " 10 ", "1e3")
NO_NUMBERS = ("abc", "nan", "inf", "-1", "1e300", "5 minutes", "\x1b[2J")


def no_file() -> None:
    raise FileNotFoundError("a")


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number_is_refused_by_the_name_of_its_variable(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORGI_PATIENCE", text)
    monkeypatch.setenv("CORGI_CACHE_GIGABYTES", text)
    with pytest.raises(InputFault, match=r"^CORGI_PATIENCE: found '.*' in the environment: expected a number"):
        patiently("a", no_file)
    with pytest.raises(InputFault, match=r"^CORGI_CACHE_GIGABYTES: found '.*' in the environment: expected") as caught:
        LocalCache.of_this_machine()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_read(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORGI_PATIENCE", text)
    monkeypatch.setenv("CORGI_CACHE_GIGABYTES", text)
    assert patience_seconds() == 60 * float(text)
    assert LocalCache.of_this_machine().limit == int(float(text) * 1e9)


@pytest.mark.parametrize("text", ["", None])
def test_a_variable_that_is_not_set_changes_nothing(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CORGI_PATIENCE", "CORGI_CACHE_GIGABYTES"):
        monkeypatch.delenv(name, raising=False)
        if text is not None:
            monkeypatch.setenv(name, text)
    assert patience_seconds() == 0
    assert LocalCache.of_this_machine().limit is None
