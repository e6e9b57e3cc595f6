"""Fetch one address over HTTP within limits of time, bytes, redirects and of where it may lead.

img2dataset's own download function has a time limit for each read only, follows ``file:`` addresses, reads answers of
any length, and connects anywhere.
"""

import base64
import http.client
import socket
import ssl
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

from stages.download_shards.ssrf_filter import AddressPolicy, ForbiddenAddress
from stages.download_shards.watchdog import Timeout, Watchdog

_USER_AGENT = "Mozilla/5.0 (compatible; corgi-pipeline)"
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_TRANSIENT_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
_DEFAULT_PORTS = {"http": 80, "https": 443}
_CHUNK = 1 << 16
_ROBOT_RULES = frozenset(("noai", "noimageai", "noindex", "noimageindex"))
_SAFE = "/:?#[]@!$&'()*+,;=%~"  # what an address may hold unquoted


class FetchError(Exception):
    """An address gave no file; ``transient`` tells whether another attempt may help."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


@dataclass(frozen=True)
class FetchLimits:
    """How long, how much and how far."""

    timeout: float
    """Seconds to wait for a connection and for each piece of the answer."""
    max_seconds: float
    """Seconds for the whole address, redirects included."""
    max_bytes: int
    max_redirects: int
    respect_opt_out: bool


@dataclass(frozen=True)
class _Target:
    """An address taken apart."""

    scheme: str
    host: str
    port: int
    path: str
    authorization: str | None


class Fetcher:
    """Fetches addresses; any number of threads may use one."""

    def __init__(self, limits: FetchLimits, policy: AddressPolicy, watchdog: Watchdog) -> None:
        self._limits, self._policy, self._watchdog = limits, policy, watchdog
        self._tls = ssl.create_default_context()

    def __call__(self, url: str) -> bytes:
        """Return the file behind the address.

        Raises:
            FetchError: there is none, or a limit was reached.
        """
        with self._watchdog.watch(self._limits.max_seconds) as watch:
            try:
                return self._follow(url, watch)
            except FetchError as error:
                raise _timed_out() if watch.expired else error from None
            except ForbiddenAddress:
                raise FetchError("private address refused") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise _timed_out() if watch.expired else _explain(error) from None

    def _follow(self, url: str, watch: Timeout) -> bytes:
        for _ in range(self._limits.max_redirects + 1):
            found = self._request(_take_apart(url), watch)
            if isinstance(found, bytes):
                return found
            url = without_credentials(urllib.parse.urljoin(url, found))
        raise FetchError("too many redirects")

    def _request(self, target: _Target, watch: Timeout) -> bytes | str:
        """Return the file, or the address it has moved to."""
        connection = http.client.HTTPConnection(target.host, target.port)
        connection.default_port = _DEFAULT_PORTS[target.scheme]  # which the Host header leaves out
        raw = self._policy.connect(target.host, target.port, min(self._limits.timeout, watch.seconds_left))
        try:
            watch.policy(raw)
            raw.settimeout(self._limits.timeout)
            connection.sock = (
                self._tls.wrap_socket(raw, server_hostname=target.host) if target.scheme == "https" else raw
            )
            watch.policy(connection.sock)
            connection.putrequest("GET", target.path, skip_accept_encoding=True)
            for name, value in _headers(target):
                connection.putheader(name, value)
            connection.endheaders()
            with connection.getresponse() as response:
                return self._read(response, watch)
        finally:
            connection.close()
            raw.close()

    def _read(self, response: http.client.HTTPResponse, watch: Timeout) -> bytes | str:
        location = response.getheader("Location")
        if response.status in _REDIRECTS and location:
            return location
        if not 200 <= response.status < 300:
            message = f"HTTP Error {response.status}: {response.reason}"
            raise FetchError(message, transient=response.status in _TRANSIENT_STATUS)
        if self._limits.respect_opt_out and _is_opted_out(response.headers.get_all("X-Robots-Tag", [])):
            raise FetchError("Use of image disallowed by X-Robots-Tag directive")
        if (response.getheader("Content-Encoding") or "identity").strip().lower() != "identity":
            raise FetchError("content encoding refused")  # it was asked for as it is; unpacking could fill the memory
        if (response.length or 0) > self._limits.max_bytes:
            raise FetchError("file too large")
        content = b"".join(self._pieces(response, watch))
        if response.length:
            raise FetchError("connection closed before the end of the file", transient=True)
        return content

    def _pieces(self, response: http.client.HTTPResponse, watch: Timeout) -> Iterator[bytes]:
        size = 0
        while piece := response.read1(_CHUNK):
            size += len(piece)
            if size > self._limits.max_bytes:
                raise FetchError("file too large")
            yield piece
            watch.check()
        watch.check()


def without_credentials(url: str) -> str:
    """Return the address without user name and password, which could otherwise end up in files and logs."""
    prefix, mark, rest = url.partition("//")
    if not mark:
        return url
    end = min((rest.find(sign) for sign in "/?#" if sign in rest), default=len(rest))
    return f"{prefix}{mark}{rest[:end].rpartition('@')[2]}{rest[end:]}"


def host_of(url: str) -> str:
    """Return the host part of an address, for politeness; one that is none counts as its own host."""
    try:
        return urllib.parse.urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _take_apart(url: str) -> _Target:
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = (parts.hostname or "").encode("idna").decode() if parts.hostname else "", parts.port
    except (ValueError, UnicodeError):
        raise FetchError("invalid address") from None
    if parts.scheme not in ("http", "https"):
        raise FetchError("unknown url type")
    if not host:
        raise FetchError("no host given")
    path = urllib.parse.quote(parts.path or "/", safe=_SAFE) + (
        f"?{urllib.parse.quote(parts.query, safe=_SAFE)}" if parts.query else ""
    )
    return _Target(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], path, _authorization(parts))


def _authorization(parts: urllib.parse.SplitResult) -> str | None:
    if parts.username is None:
        return None
    user = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(user.encode()).decode()}"


def _headers(target: _Target) -> list[tuple[str, str]]:
    headers = [("User-Agent", _USER_AGENT), ("Accept-Encoding", "identity"), ("Connection", "close")]
    return headers + ([("Authorization", target.authorization)] if target.authorization else [])


def _is_opted_out(values: list[str]) -> bool:
    """Tell whether a header forbids use to everybody; one that names another robot (``bot: noai``) does not."""
    rules = [rule.strip().lower() for value in values for rule in value.split(",")]
    return any(rule in _ROBOT_RULES for rule in rules)


def _timed_out() -> FetchError:
    return FetchError("timed out", transient=True)


_WORDS: tuple[tuple[type[Exception], str, bool], ...] = (
    (TimeoutError, "timed out", True),
    (ssl.SSLCertVerificationError, "CERTIFICATE_VERIFY_FAILED", False),
    (ConnectionRefusedError, "Connection refused", True),
    (http.client.InvalidURL, "invalid address", False),
    (UnicodeError, "invalid address", False),
    (ConnectionError, "connection lost", True),
    (http.client.HTTPException, "connection lost", True),
    (ssl.SSLError, "connection lost", True),
)


def _explain(error: Exception) -> FetchError:
    """Put an error of the network in words that hold nothing of the address and are the same every time."""
    if isinstance(error, socket.gaierror):
        return FetchError("Name or service not known", transient=error.errno == socket.EAI_AGAIN)
    for kind, words, transient in _WORDS:
        if isinstance(error, kind):
            return FetchError(words, transient=transient)
    return FetchError(f"network error: {type(error).__name__}", transient=isinstance(error, OSError))
