"""Addresses within addresses lose what is secret, in every form in which it comes, and nothing else."""

import urllib.parse

import pytest

from stages.contract.secrets import redact
from stages.download_shards.ambiguous_urls import find_ambiguous_urls
from stages.download_shards.http.fetch import recorded_name, recorded_url, requested_url
from tests.growth import assert_linear

CANARY = "hunter2canary"
INNER = (
    f"http://bob:{CANARY}@h/1.png", f"https://{CANARY}@h", f"https://h/1.png?alt=media&X-Amz-Signature={CANARY}&w=2",
    f"https://h/?token={CANARY}", f"ftp://bob:p@{CANARY}@h:21/1.png",
)  # fmt: skip
OUTER = ("http://proxy/?to={}", "http://proxy:80/x?w=1&to={}&h=2", "http://proxy/im/{}", "http://proxy/a/{}/b#c")


def quoted(text: str, times: int) -> str:
    for _ in range(times):
        text = urllib.parse.quote(text, safe="")
    return text


@pytest.mark.parametrize("times", [0, 1, 2, 3])
@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", INNER)
def test_no_record_and_no_message_has_a_secret_of_an_address_within_another(inner: str, outer: str, times: int) -> None:
    url = outer.format(quoted(inner, times))
    recorded = recorded_url(url)
    assert CANARY not in recorded
    assert recorded_url(recorded) == recorded
    assert recorded.startswith("http://proxy")
    if "token" not in inner and "Signature" not in inner:  # what is recorded of these may be a parameter of either
        assert CANARY not in redact(f"GET {url!r} failed")


@pytest.mark.parametrize(
    "url",
    [
        f"http://bob:{CANARY}/with+slash@h/1.png", f"http:/bob:{CANARY}@h/1.png", f"http:///bob:{CANARY}@h/1.png",
        f"http://bob:{CANARY}#x@h/", f"zip://1.png::https://bob:{CANARY}@h/a.zip",
    ],
)  # fmt: skip
def test_no_record_has_the_password_of_a_malformed_address(url: str) -> None:
    assert CANARY not in recorded_url(url)
    assert CANARY not in recorded_name(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://h/1.png", "http://h:/a@2x.png", "https://medium.com/@user/x?id=1&q=a@b", "http://h/a&key=1;token=2.png",
        "http://h/im/https://i/1.png?to=https%3A%2F%2Fi%2F%40user%2F1.png%3Fw%3D2", "http://h/100%25.png",
        "a/b?key=.png", "https://web.archive.org/web/2020/https://medium.com/@user/1.png", "http://h/a:b@c",
    ],
)  # fmt: skip
def test_everything_else_of_an_address_is_recorded(url: str) -> None:
    assert recorded_name(url) == url
    assert "://" not in url or recorded_url(url) == url


def test_addresses_that_differ_in_a_nested_key_have_names_of_their_own() -> None:
    nested = [f"http://proxy/im/https%3A%2F%2Fh%2F%3Fkey%3D{name}.png" for name in ("cat", "dog")]
    assert find_ambiguous_urls(iter([["http://h/", *nested]])).tolist() == [1, 2]
    signed = [f"http://proxy/?to=https%3A%2F%2Fh%2F%3Fsignature%3D{name}" for name in ("1", "2")]
    assert find_ambiguous_urls(iter([signed])).tolist() == []


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("HTTP://H.example/a b é.png?q=a b#top", "http://h.example/a%20b%20%C3%A9.png?q=a%20b"),
        (f"http://bob:{CANARY}@h:80/1.png", "http://h/1.png"),
        (f"https://bob:{CANARY}@[::1]:8443", "https://[::1]:8443/"),
        ("https://faß.de:80/", "https://xn--fa-hia.de:80/"),
    ],
)
def test_an_address_is_asked_for_in_one_form_without_credentials(url: str, asked: str) -> None:
    assert requested_url(url) == asked


@pytest.mark.parametrize(
    "part", ["?a=", "%3Fa%3D", "://", "%3A%2F%2F", "http://a:b@", "%25", "?token=", "%3Ftoken%3D", "&"]
)
def test_long_addresses_are_recorded_in_linear_time(part: str) -> None:
    assert_linear(lambda size: recorded_url("http://h/" + part * size), 5000)
