"""What is secret, and texts and documents without it: the one module that knows.

Credentials enter by addresses (``scheme://user:password@host``, keys in a query), by the options of file systems, and
by the environment. They work where they are used; whatever is recorded, shown or logged passes through here:

- an address: user, password, and the values of its query, except for parameters that are known to be harmless
- options: every value whose name is not in the list of harmless ones
- any other text: addresses in it, assignments to names of secrets, and the secrets that this process has met
"""

import base64
import contextlib
import functools
import json
import logging
import os
import re
import sys
import traceback
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final

from stages.contract.nested_addresses import without_nested_logins, without_nested_values

MASK: Final = "…"
NOTIFY_VARIABLE: Final = "CORGI_NOTIFY_URL"  # in place of notify.url


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


#: Options of file systems that are no secrets; the names of all others are shown, and their values are not.
PUBLIC_OPTIONS: Final = _words(
    "endpoint_url region region_name anon addressing_style signature_version use_ssl verify timeout connect_timeout",
    "read_timeout requests_timeout cache_timeout retries max_attempts total_max_attempts mode max_pool_connections",
    "tcp_keepalive max_concurrency default_block_size block_size default_cache_type default_fill_cache cache_type",
    "use_listings_cache listings_expiry_time skip_instance_cache version_aware requester_pays asynchronous project",
    "profile host port protocol encoding tls consistency location default_location check_connection compression",
    "payload_signing_enabled use_accelerate_endpoint use_dualstack_endpoint same_names expiry_time check_files",
    "cache_check trust_env",
)

#: Parameters of a query that are no secrets.
_PUBLIC_PARAMETERS: Final = _words(
    "format fmt f width w height h size s page per_page offset limit quality q version v dpr fit crop auto lang",
    "download raw versionid sslmode charset driver",
)
_SECRET_PARTS: Final = _words(
    "password passwd passphrase pwd secret apikey accesskey accountkey privatekey sharedkey authorization cookie",
    "credential signature connectionstring",
)
_SECRET_NAMES: Final = frozenset(("sig", "sas", "auth", "key"))
_OBJECT_NAMES: Final = frozenset(("auth", "key"))  # and tokens but these: secrets, or names of what is asked for
_LOGIN_TOKENS: Final = ("securitytoken", "sessiontoken", "accesstoken")
_USER_NAMES: Final = frozenset(("user", "username", "login", "account_name", "client_id", "tenant_id"))
_NO_VALUE: Final = ("file", "path", "dir", "mode", "url", "uri")  # endings of variables that say where a secret is
_SECRET_ADDRESSES: Final = frozenset(("notify.url",))  # of services whose addresses are passwords, path and all
_SHORTEST, _LONG_ENOUGH = 4, 8  # a short one is recognised only where it stands alone

_ADDRESS = re.compile(
    r"(?<![A-Za-z0-9+.\-])(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*):(?P<slashes>/{1,3})"
    r"(?P<rest>(?:(?!::|[,;][\w+.\-]{1,32}://)[^\s\"'<>`])*)"
)
_ASSIGNMENT = re.compile(
    r"(?<![\w.\-])(?P<name>[\w.\-]{0,48}(?:pass|pwd|secret|key|auth|cookie|cred|sig|sas|token|string)[\w.\-]{0,32})"
    r"(?P<sign>[\"']?\s{0,2}[:=]\s{0,2}[\"']?)(?P<value>(?:(?:Bearer|Basic|Token)\s+)?[^\s\"'&;,)}\]]+)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=\-]{16,}")
_PARAMETER = re.compile(r"(?P<mark>[?&;#])(?P<name>[^=&;#?]*)(?P<value>=[^&;#]*)?")


# ---- addresses


def redact_addresses(text: str) -> str:
    """Return the text with the credentials of all addresses in it masked."""
    return _ADDRESS.sub(_mask_address, text) if ":/" in text else text


def _mask_address(found: re.Match[str]) -> str:
    scheme, slashes, rest = found["scheme"], found["slashes"], found["rest"]
    login, rest = _split_login(rest)
    if not login and rest.endswith(MASK) and not rest.partition("/")[0].partition(":")[2].rstrip(MASK).isdigit():
        rest = MASK if ":" in rest.partition("/")[0] else rest  # a message was cut before the @
    if login and _is_login(scheme, slashes, login):
        login = MASK
    at = "@" if login else ""
    cut = min((rest.find(mark) for mark in "?#" if mark in rest), default=len(rest))
    query = _PARAMETER.sub(lambda one: _mask_parameter(one, scheme), rest[cut:])
    return f"{scheme}:{slashes}{login}{at}{without_nested_logins(rest[:cut] + query, MASK)}"


def _split_login(rest: str) -> tuple[str, str]:
    """Return what stands before the host, and the rest; a password may hold a slash that is not escaped."""
    end = min((rest.find(mark) for mark in "/?#" if mark in rest), default=len(rest))
    authority = rest[:end]
    if "@" in authority:
        login, _, host = authority.rpartition("@")
        return login, host + rest[end:]
    _, colon, after = authority.partition(":")
    if "@" in rest and colon and not after.isdigit() and not authority.startswith("["):
        login, _, rest = rest.rpartition("@")
        return login, rest
    return "", rest


def _is_login(scheme: str, slashes: str, login: str) -> bool:
    """Return whether it is one; abfs://container@account is none, nor is a name alone after a single slash."""
    return ":" in login or (len(slashes) > 1 and scheme.lower() not in {"abfs", "abfss", "wasb", "wasbs"})


def _mask_parameter(found: re.Match[str], scheme: str) -> str:
    mark, name, value = found["mark"], found["name"], found["value"]
    if value is None:  # ?…, which is a glob for other file systems
        is_bare_secret = mark == "?" and name and scheme.lower() in {"http", "https"}
        return f"{mark}{MASK}" if is_bare_secret else found[0]
    return found[0] if _normal(name) in _PUBLIC_PARAMETERS else f"{mark}{name}={MASK}"


def redact_path(address: str) -> str:
    """Return scheme and host of an address; the rest is a secret too, as it is of many services that take messages."""
    found = _ADDRESS.match(address)
    if found is None:
        return MASK
    _, rest = _split_login(found["rest"])
    end = min((rest.find(mark) for mark in "/?#" if mark in rest), default=len(rest))
    return f"{found['scheme']}:{found['slashes']}{rest[:end]}/{MASK if rest[end:].strip('/') else ''}"


def has_password(address: str) -> bool:
    """Return whether an address holds a password."""
    return any(":" in _split_login(found["rest"])[0] for found in _ADDRESS.finditer(address))


def without_login(address: str) -> tuple[str, str, str]:
    """Return an address of one host without its login, and the user and password that it held, as they are."""
    found = _ADDRESS.match(address)
    login, rest = _split_login(found["rest"]) if found else ("", "")
    if found is None or not login:
        return address, "", ""
    user, _, password = login.partition(":")
    clean = f"{found['scheme']}:{found['slashes']}{rest}"
    return clean, urllib.parse.unquote(user), urllib.parse.unquote(password)


def redact_parameters(url: str) -> str:
    """Return the address of an image without the values of parameters that are named as secrets are."""
    return _mask_parameters(url, is_secret_name)


def redact_signatures(url: str) -> str:
    """Return the address of an image without the values of parameters that can be nothing but secrets.

    What is called ``key``, ``auth`` or a token is a secret by name, and may yet say which image is meant: it is left.
    The result is for comparing addresses, never for a record.
    """
    return _mask_parameters(url, lambda name: is_secret_name(name) and not _may_name_object(name))


def _mask_parameters(url: str, is_secret: Callable[[str], bool]) -> str:
    def mask(found: re.Match[str]) -> str:
        is_masked = found["value"] is not None and is_secret(found["name"])
        return f"{found['mark']}{found['name']}={MASK}" if is_masked else found[0]

    path, mark, query = url.partition("?")
    return without_nested_values(path + _PARAMETER.sub(mask, mark + query), is_secret, MASK)


def _may_name_object(name: str) -> bool:
    plain = _plain(name)
    return plain in _OBJECT_NAMES or (plain.endswith("token") and not plain.endswith(_LOGIN_TOKENS))


# ---- names and options


@functools.lru_cache(4096)
def is_secret_name(name: str) -> bool:
    """Return whether a variable, header, parameter or key of this name holds a secret."""
    plain = _plain(name)
    return plain in _SECRET_NAMES or plain.endswith("token") or any(part in plain for part in _SECRET_PARTS)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.rpartition(".")[2]).lower()


def redact_options(options: Any, name: str = "") -> Any:
    """Return options of file systems in which only what is known to be harmless is shown."""
    if isinstance(options, Mapping):
        return {str(key): redact_options(value, str(key)) for key, value in options.items()}
    if _normal(name) not in PUBLIC_OPTIONS:
        return MASK
    return redact_tree(options)


def redact_tree(content: Any) -> Any:
    """Return JSON-ready data with the credentials of all addresses in it masked, and the values of secret names."""
    if isinstance(content, str):
        return redact_addresses(content)
    if content is None or isinstance(content, int | float):  # most of a record: looked at before what takes longer
        return content
    if isinstance(content, dict | Mapping):
        return {key: _redact_named(str(key), value) for key, value in content.items()}
    return [redact_tree(item) for item in content] if isinstance(content, list | tuple) else content


def _redact_named(name: str, value: Any) -> Any:
    is_masked = isinstance(value, str) and value and is_secret_name(name) and _normal(name) != "key"
    return MASK if is_masked else redact_tree(value)


def secrets_in(tree: Any, name: str = "", *, options: bool = False) -> Iterator[tuple[str, str]]:
    """Yield dotted key and value of every secret in a tree of configuration."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            dotted = f"{name}.{key}" if name else str(key)
            yield from secrets_in(value, dotted, options=options or dotted == "storage.options")
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from secrets_in(item, name, options=options)
    elif _holds_secret(tree, name, options=options):
        yield name, str(tree)


def _holds_secret(value: Any, name: str, *, options: bool) -> bool:
    last = _normal(name.rpartition(".")[2])
    if value is None or isinstance(value, bool) or value == "":
        return False
    if (options and last not in PUBLIC_OPTIONS) or name in _SECRET_ADDRESSES:
        return True
    if isinstance(value, str) and redact_addresses(value) != value:
        return True
    return isinstance(value, str) and last != "key" and is_secret_name(last)


def _normal(name: str) -> str:
    return name.strip().lower().replace("-", "_")


# ---- what this process has met


class _Known:
    """The secrets that this process has met, as one pattern."""

    def __init__(self) -> None:
        self.values: set[str] = set()
        self.pattern: re.Pattern[str] | None = None

    def add(self, values: Iterable[str]) -> None:
        """Take in secrets, with their usual encodings."""
        new = {form for value in values if len(value) >= _SHORTEST for form in _forms(value)} - self.values
        if not new:
            return
        self.values |= new
        longest_first = sorted(self.values, key=lambda value: (-len(value), value))
        self.pattern = re.compile("|".join(map(_alone, longest_first)))


_known = _Known()


def _forms(value: str) -> Iterator[str]:
    raw = value.encode(errors="surrogatepass")  # a variable of other bytes than UTF-8 holds surrogates
    yield from (value, urllib.parse.quote(raw, safe=""), urllib.parse.quote_plus(raw))
    yield json.dumps(value)[1:-1]
    if len(value) >= _LONG_ENOUGH:
        yield base64.b64encode(raw).decode()


def _alone(value: str) -> str:
    literal = re.escape(value)
    return literal if len(value) >= _LONG_ENOUGH else rf"(?<![A-Za-z0-9]){literal}(?![A-Za-z0-9])"


def remember_secrets(tree: Any) -> None:
    """Let :func:`redact` know the secrets of a configuration (as read, before it is checked)."""
    for name, value in secrets_in(tree):
        last = _normal(name.rpartition(".")[2])
        if last in _USER_NAMES:
            continue
        in_address = list(_secrets_of_address(value))
        if name in _SECRET_ADDRESSES:
            in_address += [value, *(one for one in value.split("/")[3:] if len(one) >= _LONG_ENOUGH)]
        scheme, _, token = value.partition(" ")
        header = [token] if scheme in {"Bearer", "Basic", "Token"} else []
        if in_address:
            _known.add(in_address)
        elif len(value) >= _LONG_ENOUGH or is_secret_name(last):
            _known.add([value, *header])


def remember_environment(variables: Mapping[str, str] | None = None) -> None:
    """Let :func:`redact` know the secrets of environment variables, by default of this process's."""
    for name, value in (os.environ if variables is None else variables).items():
        if name.startswith("FSSPEC_") and value.startswith("{"):
            with contextlib.suppress(ValueError, RecursionError):  # no JSON, or nested thousands of levels deep
                remember_secrets({"storage": {"options": json.loads(value)}})
        elif name == NOTIFY_VARIABLE:
            remember_secrets({"notify": {"url": value}})
        elif "://" in value:
            _known.add(_secrets_of_address(value))
        elif is_secret_name(name) and not name.lower().endswith(_NO_VALUE) and len(value) >= _LONG_ENOUGH:
            _known.add([value] if value[0] != "/" or "KEY" in name else [])


def _secrets_of_address(text: str) -> Iterator[str]:
    for found in _ADDRESS.finditer(text):
        login, rest = _split_login(found["rest"])
        if login and _is_login(found["scheme"], found["slashes"], login):
            _, colon, password = login.partition(":")
            yield from (login, *([password, urllib.parse.unquote(password)] if colon else []))
        for parameter in _PARAMETER.finditer(rest):
            if parameter["value"] and is_secret_name(parameter["name"]):
                yield from (parameter["value"][1:], urllib.parse.unquote(parameter["value"][1:]))


# ---- texts, logs and errors


def redact(text: str) -> str:
    """Return a text that may be shown: a message, a line of a log, a traceback."""
    text = _ASSIGNMENT.sub(_mask_assignment, redact_addresses(text))
    text = _BEARER.sub(rf"\1 {MASK}", text)
    return text if _known.pattern is None else _known.pattern.sub(MASK, text)


def _mask_assignment(found: re.Match[str]) -> str:
    """Mask the value of name=value, 'name': 'value', and of a header; after a plain word, a colon is a sentence's."""
    name, sign = found["name"], found["sign"]
    is_plain_colon = ":" in sign and not set("\"'") & set(sign)
    is_header = "-" in name or name.lower() in {"authorization", "cookie"}
    if not is_secret_name(name) or _normal(name) == "key" or (is_plain_colon and not is_header):
        return found[0]
    return f"{name}{sign}{MASK}"


def redact_logs() -> None:
    """Let every log record of this process pass through :func:`redact`, whichever library makes it."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def make_redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        message = _message_of(record)
        if (clean := redact(message)) != message:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return record

    make_redacted.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_redacted)


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit: the handler reports it
        return str(record.msg)


def print_redacted_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that nobody caught, as Python does; in place of :data:`sys.excepthook`."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def redacted_error(error: Exception, ours: type[Exception]) -> Exception | None:
    """Return what to raise in place of an error that quotes a secret, in itself or in what led to it.

    None: it is clean, its notes by now at least. An error of our own keeps its type: its message is redacted already.
    """
    chain = list(_shown_chain(error))
    for one in chain:
        if notes := getattr(one, "__notes__", None):
            one.__notes__ = [redact(note) for note in notes]
    if all(redact(message) == message for message in map(str, chain)):
        return None
    trace = redact("".join(traceback.format_exception(error)))
    named = error if isinstance(error, ours) else ours(f"{type(error).__name__}: {error}")
    named.__cause__, named.__context__, named.__traceback__ = None, None, None
    named.__notes__ = [trace]
    return named


def _shown_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that led to it, as far as a traceback shows them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
