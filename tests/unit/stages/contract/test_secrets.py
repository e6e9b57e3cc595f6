"""What is secret is masked in every form in which it comes, and nothing else is."""

import io
import json
import logging
import sys
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.contract import secrets
from stages.contract.errors import InputFault, StageError
from stages.contract.secrets import (
    MASK,
    print_redacted_traceback,
    redact,
    redact_addresses,
    redact_logs,
    redact_options,
    redact_parameters,
    redact_signatures,
    redact_tree,
    redacted_error,
    remember_environment,
    remember_secrets,
    secrets_in,
    without_login,
)

CANARY = "hunter2canary"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", secrets._Known())


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"http://me:{CANARY}@host:5000/x", "http://…@host:5000/x"),
        (f"https://{CANARY}@host/x", "https://…@host/x"),
        (f"simplecache::s3://key:{CANARY}@bucket/a", "simplecache::s3://…@bucket/a"),
        (f"zip://inner.csv::https://u:{CANARY}@host/a.zip", "zip://inner.csv::https://…@host/a.zip"),
        (f"filecache::ftp://u:{CANARY}@host", "filecache::ftp://…@host"),
        (f"s3://AKIA:{CANARY}/with+slash@bucket/a", "s3://…@bucket/a"),
        (f"postgresql+psycopg2://u:{CANARY}?#@db/mlflow?sslmode=require", "postgresql+psycopg2://…@db/mlflow?sslmode=require"),
        (f"https://h/l.csv?token={CANARY}&page=2&X-Amz-Signature={CANARY}", "https://h/l.csv?token=…&page=2&X-Amz-Signature=…"),
        (f"https://h/l.csv?anything={CANARY}", "https://h/l.csv?anything=…"),
        (f"https://h/l.csv?{CANARY}", "https://h/l.csv?…"),
        (f"https://h/cb#access_token={CANARY}", "https://h/cb#access_token=…"),
        (f"/here/s3:/key:{CANARY}@bucket/a", "/here/s3:/…@bucket/a"),
        (f"HTTP://U:{CANARY}@[::1]:80/", "HTTP://…@[::1]:80/"),
        (f"http://user:{CANARY}…", "http://…"),
        (f"http://a:{CANARY}@h,http://b:{CANARY}@i", "http://…@h,http://…@i"),
    ],
)  # fmt: skip
def test_addresses_are_shown_without_what_is_secret(address: str, shown: str) -> None:
    assert redact_addresses(address) == shown
    assert redact(f"GET {address!r} failed") == f"GET {shown!r} failed"
    assert redact_addresses(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/corgi/part-?.tar", "https://host:8080/a@2x.png?w=3", "abfs://container@account/x", "a.b@c.org",
        "sqlite:////home/me@x/mlflow.db", "file:///a:b/c", "http://[::1]:8265", "a sentence: that has tokens: 16",
        "a user name and a password: allowed are addresses without", "num_tokens=16", "C:/users/me@x", "key: value",
        "http://host:8080…", "http://host/a:b…",
    ],
)  # fmt: skip
def test_everything_else_is_left_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        f"password={CANARY}", f"'secret_key': '{CANARY}'", f'"X-Api-Key": "{CANARY}"', f"Cookie: {CANARY}",
        f"Authorization: Bearer {CANARY}", f"host=db password={CANARY} port=5", f"AccountKey={CANARY};x",
        f"aws_session_token = {CANARY}", f"sig={CANARY}", f"x-goog-signature: {CANARY}", f"ValueError: pwd={CANARY}",
    ],
)  # fmt: skip
def test_assignments_to_names_of_secrets_are_masked(text: str) -> None:
    assert CANARY not in redact(text)
    assert MASK in redact(text)


def test_of_options_only_what_is_known_to_be_harmless_is_shown() -> None:
    options = {
        "s3": {"key": "k", "Endpoint-URL": "http://u:p@h", "anon": False, "config_kwargs": {"connect_timeout": 5}},
        "http": {"client_kwargs": {"headers": {"Any-Header": "v"}, "timeout": [1, 2]}, "weird": 7},
    }
    assert redact_options(options) == {
        "s3": {"key": MASK, "Endpoint-URL": f"http://{MASK}@h", "anon": False, "config_kwargs": {"connect_timeout": 5}},
        "http": {"client_kwargs": {"headers": {"Any-Header": MASK}, "timeout": [1, 2]}, "weird": MASK},
    }


def test_the_secrets_of_a_config_are_masked_wherever_a_library_quotes_them() -> None:
    config = {
        "storage": {"options": {"s3": {"secret": CANARY, "username": "corgi", "odd": ["abc", "longer than that"]}}},
        "tracking": {"uri": "postgresql://u:pass%2Fword1@db/x"},
        "download_shards": {"source": {"path": "https://h/l.csv?sig=s1gnature"}},
        "train_decoder": {"num_tokens": 4, "note": "not longer than that"},
    }
    assert {name for name, _ in secrets_in(config)} == {
        "storage.options.s3.secret", "storage.options.s3.username", "storage.options.s3.odd", "tracking.uri",
        "download_shards.source.path",
    }  # fmt: skip
    remember_secrets(config)
    text = f"530 {CANARY}: corgi 'pass/word1' s1gnature pass%2Fword1 abc (longer than that) {json.dumps(CANARY)}"
    assert redact(text) == "530 …: corgi '…' … … abc (…) \"…\""
    assert str(StageError(f"x: {CANARY}")) == "x: …"


def test_short_secrets_are_masked_only_where_they_stand_alone() -> None:
    remember_secrets({"storage": {"options": {"sftp": {"password": "abcd"}}}})
    assert redact("login abcd, abcde") == "login …, abcde"


def test_the_secrets_of_the_environment_are_known() -> None:
    remember_environment({
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "RAY_AUTH_TOKEN_PATH": "/home/me/token-file",
        "FSSPEC_S3": json.dumps({"token": CANARY}), "HTTPS_PROXY": "http://u:proxypass@p:1", "PATH": "/usr/bin:/bin",
    })  # fmt: skip
    assert redact(f"wJalrXUtnFEMI {CANARY} proxypass /usr/bin:/bin /home/me/token-file") == (
        "… … … /usr/bin:/bin /home/me/token-file"
    )


def test_documents_keep_their_form() -> None:
    document = {"uri": f"ftp://u:{CANARY}@h/x", "n": 1, "list": [None, True, {"password": CANARY, "key": "name"}]}
    assert redact_tree(document) == {
        "uri": "ftp://…@h/x",
        "n": 1,
        "list": [None, True, {"password": MASK, "key": "name"}],
    }


def test_addresses_of_images_keep_what_is_no_secret() -> None:
    url = f"https://h/i.png?id=5&X-Amz-Signature={CANARY}&X-Amz-Credential=c&w=4&token={CANARY}#top"
    assert redact_parameters(url) == "https://h/i.png?id=5&X-Amz-Signature=…&X-Amz-Credential=…&w=4&token=…#top"
    assert redact_parameters("a/b?.png") == "a/b?.png"


def test_addresses_are_compared_by_what_may_name_an_image_and_without_signatures() -> None:
    url = "https://h/i?key=cat.jpg&token=a&Auth=b&sig=c&X-Amz-Signature=d&X-Amz-Security-Token=e&apikey=f&w=4#g"
    expected = "https://h/i?key=cat.jpg&token=a&Auth=b&sig=…&X-Amz-Signature=…&X-Amz-Security-Token=…&apikey=…&w=4#g"
    assert redact_signatures(url) == expected


def test_a_login_is_taken_off_an_address() -> None:
    assert without_login("http://u%40x:p%2Fw@h:1/p") == ("http://h:1/p", "u@x", "p/w")
    assert without_login("http://h:1/p") == ("http://h:1/p", "", "")


def test_log_records_of_any_library_are_clean() -> None:
    before, stream = logging.getLogRecordFactory(), io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("some.library")
    logger.addHandler(handler)
    try:
        redact_logs()
        redact_logs()
        logger.warning("GET %s", f"https://u:{CANARY}@h/")
        try:
            raise ValueError(f"password={CANARY}")
        except ValueError:
            logger.exception("it failed")
    finally:
        logging.setLogRecordFactory(before)
        logger.removeHandler(handler)
    assert CANARY not in stream.getvalue()
    assert "GET https://…@h/" in stream.getvalue()
    assert "ValueError: password=…" in stream.getvalue()


def _fail(error: Exception, cause: Exception | None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:  # noqa: BLE001  whatever it is
        return caught


def test_errors_lose_secrets_and_keep_their_type_and_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert redacted_error(_fail(OSError("no secret"), KeyError("x")), StageError) is None
    noted = OSError("no secret")
    noted.add_note(f"in the worker: password={CANARY}")
    assert redacted_error(noted, StageError) is None
    assert noted.__notes__ == ["in the worker: password=…"]
    quoting = _fail(OSError(f"530 ftp://u:{CANARY}@h"), None)
    clean = redacted_error(quoting, StageError)
    assert str(clean) == "OSError: 530 ftp://…@h"
    caused = redacted_error(_fail(InputFault("here: wrong"), quoting), StageError)
    assert isinstance(caused, InputFault)
    shown = "".join(traceback.format_exception(caused))
    assert "OSError: 530 ftp://…@h" in shown
    assert CANARY not in shown
    print_redacted_traceback(OSError, quoting, quoting.__traceback__)
    assert "OSError: 530 ftp://…@h" in capsys.readouterr().err
    assert sys.excepthook is not print_redacted_traceback


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.text(max_size=200), st.sampled_from(["http", "s3", "simplecache::ftp", "postgresql"]))
def test_any_text_is_masked_once_and_for_all(text: str, scheme: str) -> None:
    once = redact(text)
    assert redact(once) == once
    password = "".join(sign for sign in text if sign.isalnum() and sign.isascii()) + "Zq9"
    assert password not in redact(f"{text} {scheme}://user:{password}@host/x").rpartition(scheme)[2]


def test_long_texts_take_no_time() -> None:
    for text in ("a" * 1_000_000, "a:" * 300_000, "http://" * 100_000, "a=" * 300_000, "@:/" * 200_000):
        redact(text)


def test_secrets_of_any_bytes_and_options_of_any_depth_end_nothing() -> None:
    secret = b"\xff\xfesecret-bytes".decode(errors="surrogateescape")
    remember_environment({"MY_TOKEN": secret, "FSSPEC_S3": '{"a":' * 5000 + "1" + "}" * 5000})
    assert redact(f"token {secret}!") == "token …!"
