"""Fetch one address over HTTP within limits of time, bytes, redirects and of where it may lead.

img2dataset's own download function has a time limit for each read only, follows ``file:`` addresses, reads responses
of any length, and connects anywhere. Here urllib3 speaks HTTP and TLS over sockets that the address policy opens.
"""

import base64
import contextlib
import http.client
import socket
import ssl
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import idna
from urllib3 import HTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from stages.contract.errors import FailureCause, ItemFault
from stages.contract.nested_addresses import without_nested_logins
from stages.contract.parsing import shown
from stages.contract.secrets import has_password, redact_parameters, without_login
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.http.ssrf_filter import AddressPolicy, ForbiddenAddress
from stages.download_shards.http.watchdog import Deadline, Watchdog

_USER_AGENT = "Mozilla/5.0 (compatible; corgi-pipeline)"
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_TRANSIENT_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
_DEFAULT_PORTS = {"http": 80, "https": 443}
_CHUNK = 1 << 16
_ROBOT_RULES = frozenset(("noai", "noimageai", "noindex", "noimageindex"))
_SAFE = "/:?#[]@!$&'()*+,;=%~"  # what an address may hold unquoted


class FetchFault(ItemFault):
    """An address gave no file; ``transient`` says whether another attempt may help.

    ``is_unreached``: no connection to its own host came about, whose other addresses fail alike.
    """

    is_unreached = False

    def __init__(
        self, cause: FailureCause, message: str = "", *, http_status: int | None = None, transient: bool = False
    ) -> None:
        super().__init__(cause, message, http_status=http_status)
        self.transient = transient


@dataclass(frozen=True)
class _Target:
    """The parts of an address."""

    scheme: str
    host: str
    port: int
    path: str
    authorization: str | None


class _Connection(HTTPConnection):
    """A connection over a socket of ours."""

    open_socket: Callable[[str, int], socket.socket]

    def _new_conn(self) -> socket.socket:
        return self.open_socket(self._dns_host, self.port)


class _TlsConnection(HTTPSConnection):
    """A TLS connection over a socket of ours."""

    open_socket: Callable[[str, int], socket.socket]

    def _new_conn(self) -> socket.socket:
        return self.open_socket(self._dns_host, self.port)


class Fetcher:
    """Fetches addresses; any number of threads may use one."""

    def __init__(self, config: DownloadShardsConfig, policy: AddressPolicy, watchdog: Watchdog) -> None:
        self._config, self._policy, self._watchdog = config, policy, watchdog
        self._tls = ssl.create_default_context()

    def __call__(self, url: str) -> bytes:
        """Return the file behind the address, or raise FetchFault."""
        with self._watchdog.deadline(self._config.max_seconds) as deadline:
            try:
                return self._follow(url, deadline)
            except FetchFault as fault:
                raise _timed_out() if deadline.is_over and not fault.is_unreached else fault from None
            except ForbiddenAddress:
                raise FetchFault(FailureCause.PRIVATE_ADDRESS) from None
            except (OSError, http.client.HTTPException, HTTPError, ValueError) as error:
                raise _timed_out() if deadline.is_over else _explain(error) from None

    def _follow(self, url: str, deadline: Deadline) -> bytes:
        for number in range(self._config.max_redirects + 1):
            try:
                found = self._request(_parse(url), deadline)
            except FetchFault as fault:
                fault.is_unreached = fault.is_unreached and number == 0
                raise
            if isinstance(found, bytes):
                return found
            url = without_credentials(urllib.parse.urljoin(url, found))
        raise FetchFault(FailureCause.TOO_MANY_REDIRECTS)

    def _request(self, target: _Target, deadline: Deadline) -> bytes | str:
        """Return the file, or the address it has moved to."""

        def open_socket(host: str, port: int) -> socket.socket:
            try:
                opened = self._policy.connect(host, port, min(self._config.timeout, deadline.seconds_left))
            except OSError as error:
                fault = _timed_out() if deadline.is_over else _explain(error)
                fault.is_unreached = True
                raise fault from None
            try:
                deadline.limit(opened)
                opened.settimeout(self._config.timeout)
            except BaseException:  # whatever it is, nobody else knows of the socket yet
                opened.close()
                raise
            return opened

        connection = self._connection(target)
        connection.open_socket = open_socket
        try:
            connection.request(
                "GET",
                target.path,
                headers=_headers(target),
                preload_content=False,
                decode_content=False,
                enforce_content_length=False,  # checked below
            )
            with connection.getresponse() as response:
                return self._read(response, deadline)
        finally:
            connection.close()
            deadline.release()

    def _connection(self, target: _Target) -> _Connection | _TlsConnection:
        if target.scheme == "https":
            return _TlsConnection(target.host, target.port, timeout=self._config.timeout, ssl_context=self._tls)
        return _Connection(target.host, target.port, timeout=self._config.timeout)

    def _read(self, response: HTTPResponse, deadline: Deadline) -> bytes | str:
        location = response.headers.get("Location")
        if response.status in _REDIRECTS and location:
            return _decode_location(location)
        if not 200 <= response.status < 300:
            raise FetchFault(
                FailureCause.HTTP,
                f"HTTP Error {response.status}: {shown(response.reason)}",
                http_status=response.status,
                transient=response.status in _TRANSIENT_STATUS,
            )
        if self._config.respect_opt_out and _is_opted_out(response.headers.getlist("X-Robots-Tag")):
            raise FetchFault(FailureCause.DISALLOWED)
        if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise FetchFault(FailureCause.CONTENT_ENCODING)  # not asked for; decompressed, it could fill the memory
        if (response.length_remaining or 0) > self._config.max_bytes:
            raise FetchFault(FailureCause.FILE_TOO_LARGE)
        content = b"".join(self._pieces(response, deadline))
        if response.length_remaining:
            message = "connection closed before the end of the file"
            raise FetchFault(FailureCause.CONNECTION_LOST, message, transient=True)
        return content

    def _pieces(self, response: HTTPResponse, deadline: Deadline) -> Iterator[bytes]:
        size = 0
        while piece := response.read(response.length_remaining or _CHUNK):
            size += len(piece)
            if size > self._config.max_bytes:
                raise FetchFault(FailureCause.FILE_TOO_LARGE)
            yield piece
            deadline.check()
        deadline.check()


def without_credentials(url: str) -> str:
    """Return the address without user name and password, which could otherwise end up in files and logs."""
    prefix, mark, rest = url.partition("//")
    if not mark:
        return url
    end = min((rest.find(sign) for sign in "/?#" if sign in rest), default=len(rest))
    return f"{prefix}{mark}{rest[:end].rpartition('@')[2]}{rest[end:]}"


def without_logins(url: str) -> str:
    """Return the address without any user and password: its own, also where it is malformed, and of those in it."""
    clean = without_credentials(url)
    if clean == url and not origin_of(url).host and has_password(url):  # which may hold a slash that is not quoted
        clean = without_login(url)[0]
    return without_nested_logins(clean)


def recorded_url(url: str) -> str:
    """Return what a shard keeps of an address: all but users, passwords, and keys and signatures in its query."""
    return redact_parameters(without_logins(url))


def recorded_name(name: str) -> str:
    """Return what a shard keeps of a name, which strangers may have made of an address."""
    return recorded_url(name) if ":/" in name or "%3a" in name.lower() else name


class Origin(NamedTuple):
    """What of an address is reached or not reached as one."""

    scheme: str
    host: str
    port: int | None


def origin_of(url: str) -> Origin:
    """Return the origin of an address; all invalid addresses have one."""
    try:
        parts = urllib.parse.urlsplit(url)
        return Origin(parts.scheme, parts.hostname or "", parts.port)
    except ValueError:
        return Origin("", "", None)


def host_of(url: str) -> str:
    """Return the host of an address, for politeness; all invalid addresses count as one host."""
    try:
        return urllib.parse.urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _decode_location(header: str) -> str:
    """Return the address in a header, whose bytes were read as Latin-1: it may be one of UTF-8, as browsers read it."""
    with contextlib.suppress(UnicodeError):
        return header.encode("latin-1").decode("utf-8")
    parts = urllib.parse.urlsplit(header)
    path, query = (urllib.parse.quote(part, safe=_SAFE, encoding="latin-1") for part in (parts.path, parts.query))
    return parts._replace(path=path, query=query).geturl()


def _encode_host(host: str) -> str:
    """Return the name by which a host is asked for: as browsers do (UTS 46), or by Python's codec for other names."""
    if not host.isascii():
        with contextlib.suppress(idna.IDNAError):
            return idna.encode(host, uts46=True).decode()
    return host.encode("idna").decode()


def _parse(url: str) -> _Target:
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = _encode_host(parts.hostname or ""), parts.port
    except (ValueError, UnicodeError):
        raise FetchFault(FailureCause.INVALID_URL) from None
    if parts.scheme not in ("http", "https"):
        raise FetchFault(FailureCause.INVALID_URL, "unknown url type")
    if not host:
        raise FetchFault(FailureCause.INVALID_URL, "no host given")
    path = urllib.parse.quote(parts.path or "/", safe=_SAFE) + (
        f"?{urllib.parse.quote(parts.query, safe=_SAFE)}" if parts.query else ""
    )
    return _Target(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], path, _authorization(parts))


def requested_url(url: str) -> str:
    """Return an address in the form in which it is asked for, without credentials; or raise FetchFault."""
    target = _parse(url)
    host = f"[{target.host}]" if ":" in target.host else target.host
    port = "" if target.port == _DEFAULT_PORTS[target.scheme] else f":{target.port}"
    return f"{target.scheme}://{host}{port}{target.path}"


def _authorization(parts: urllib.parse.SplitResult) -> str | None:
    if parts.username is None:
        return None
    user = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(user.encode()).decode()}"


def _headers(target: _Target) -> dict[str, str]:
    headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity", "Connection": "close"}
    return headers | ({"Authorization": target.authorization} if target.authorization else {})


def _is_opted_out(values: list[str]) -> bool:
    """Return whether a header forbids use to everybody; one that names another robot (``bot: noai``) does not."""
    rules = [rule.strip().lower() for value in values for rule in value.split(",")]
    return any(rule in _ROBOT_RULES for rule in rules)


def _timed_out() -> FetchFault:
    return FetchFault(FailureCause.TIMEOUT, transient=True)


_CAUSES: tuple[tuple[type[Exception], FailureCause, bool], ...] = (  # the first that fits; whether it may pass
    (TimeoutError, FailureCause.TIMEOUT, True),
    (ssl.SSLCertVerificationError, FailureCause.BAD_CERTIFICATE, False),
    (ConnectionRefusedError, FailureCause.CONNECTION_REFUSED, True),
    (http.client.InvalidURL, FailureCause.INVALID_URL, False),
    (UnicodeError, FailureCause.INVALID_URL, False),
    (ConnectionError, FailureCause.CONNECTION_LOST, True),
    (http.client.HTTPException, FailureCause.CONNECTION_LOST, True),
    (ssl.SSLError, FailureCause.CONNECTION_LOST, True),
)


def _explain(error: Exception) -> FetchFault:
    """Return the cause of a network error; the message has nothing of the address and is the same every time."""
    root = error.__cause__ if isinstance(error, HTTPError) else error  # what urllib3 has wrapped
    if isinstance(root, socket.gaierror):
        return FetchFault(FailureCause.UNKNOWN_HOST, transient=root.errno == socket.EAI_AGAIN)
    for kind, cause, transient in _CAUSES:
        if isinstance(root, kind):
            return FetchFault(cause, transient=transient)
    name = type(root or error).__name__
    return FetchFault(FailureCause.OTHER, f"network error: {name}", transient=isinstance(root, OSError))
