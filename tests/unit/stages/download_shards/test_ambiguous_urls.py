"""Addresses that are recorded alike and are not the same, found as a dictionary of all would find them."""

import random

import pyarrow as pa
import pytest

from stages.contract.secrets import redact_signatures
from stages.download_shards.ambiguous_urls import (
    IS_AMBIGUOUS,
    find_ambiguous_urls,
    mark_ambiguous_urls,
    name_of_ambiguous_url,
)
from stages.download_shards.http.fetch import recorded_url, without_credentials
from stages.download_shards.row_digests import row_digests

CDN = "https://cdn.example/image"


@pytest.mark.parametrize("num_urls", [0, 1, 60, 3000])
def test_the_indices_are_those_of_a_dictionary(num_urls: int) -> None:
    rng = random.Random(num_urls)

    def make() -> str | None:
        path = f"https://{rng.choice(['', 'user:word@'])}h.example/{rng.randrange(1 + num_urls // 10)}"
        query = [f"{name}={rng.randrange(3)}" for name in ("key", "token", "sig", "w") if rng.random() < 0.4]
        return rng.choice([None, path, f"{path}?{'&'.join(query)}"])

    urls = [make() for _ in range(num_urls)]
    found: dict[str, set[str]] = {}
    for url in urls:
        if url is not None:
            found.setdefault(recorded_url(url), set()).add(redact_signatures(without_credentials(url)))
    expected = [n for n, url in enumerate(urls) if url is not None and len(found[recorded_url(url)]) > 1]
    assert find_ambiguous_urls(urls[first : first + 700] for first in range(0, num_urls, 700)).tolist() == expected
    assert (len(expected) > 0) == (num_urls > 1)


def test_only_rows_that_others_are_recorded_like_get_digests_and_names_of_their_own() -> None:
    urls = [f"{CDN}?key=cat.jpg", f"{CDN}/1?key=one", f"{CDN}?key=dog.jpg", None, f"{CDN}?key=…", f"{CDN}/2"]
    plain = pa.table({"url": urls, "more": range(6)})
    marked = mark_ambiguous_urls(plain)
    assert marked[IS_AMBIGUOUS].to_pylist() == [True, False, True, False, True, False]
    before, after = row_digests(plain).tolist(), row_digests(marked).tolist()
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True, False, True, False, True]
    assert len({name_of_ambiguous_url(url) for url in urls if url}) == 5
    alone = plain.slice(1)
    assert mark_ambiguous_urls(alone.filter([True, False, True, True, True])).column_names == ["url", "more"]


def test_a_name_is_the_same_under_another_password_or_signature_and_shows_no_value() -> None:
    name = name_of_ambiguous_url("https://user:word@cdn.example/image?key=cat.jpg&sig=1")
    assert (
        name == name_of_ambiguous_url(f"{CDN}?key=cat.jpg&sig=2") != name_of_ambiguous_url(f"{CDN}?key=dog.jpg&sig=1")
    )
    assert name.startswith(f"{CDN}?key=…&sig=… ")
    assert "cat" not in name
