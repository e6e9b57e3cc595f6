"""Addresses and what servers respond: over a real socket, on loopback."""

import ipaddress
import re
import socket
import struct
import threading
from pathlib import Path
from random import Random

from tests.fuzz import seeds
from tests.fuzz.mutations import mutate_bytes
from tests.fuzz.target import Broken, Run, Target

SECRET = "s3cret"


def _addresses() -> list[bytes]:
    words = (
        f"http://user:{SECRET}@127.0.0.1/a.png?x=1#y", f"https://{SECRET}@example.org:8443/ä 🎨.png", "http://[::1]/x",
        f"//u:{SECRET}@h/x", "http://xn--bcher-kva.example/%20", "http://1.2.3.4", f"HTTP://a:{SECRET}@b@c/d",
    )  # fmt: skip
    return [word.encode() for word in words]


def _prepare_address() -> Run:
    from stages.download_shards.http.fetch import _headers, _parse, host_of, without_credentials

    def run(data: bytes, folder: Path) -> object:
        url = data.decode(errors="replace")
        host_of(url)
        plain = without_credentials(url)
        target = _parse(url)
        if target.authorization is not None and "@" in re.split("[/?#]", plain.partition("//")[2])[0]:
            raise Broken(f"credentials stay in {plain!r}")
        for text in (target.path, target.host, *_headers(target).values()):
            if any(sign in text for sign in "\r\n"):
                raise Broken(f"a line break in {text!r}")
        return target

    return run


def _numeric() -> list[bytes]:
    words = ("127.0.0.1", "10.0.0.1", "169.254.169.254", "8.8.8.8", "2001:4860:4860::8888", "fd00:ec2::254")
    return [ipaddress.ip_address(word).packed for word in words]


_EMBEDDINGS = ("::ffff:0:0", "::", "64:ff9b::", "64:ff9b:1::", "::ffff:0:0:0", "fe80::5efe:0:0")


def _prepare_policy() -> Run:
    from stages.download_shards.http.ssrf_filter import AddressPolicy

    policy = AddressPolicy([])

    def run(data: bytes, folder: Path) -> object:
        plain = ipaddress.IPv4Address(data[:4].ljust(4, b"\0"))
        forms = [str(plain), f"2002:{data[:2].ljust(2, b'0').hex()}:{data[2:4].ljust(2, b'0').hex()}::"]
        forms += [str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(net)) | int(plain))) for net in _EMBEDDINGS]
        is_public = plain.is_global and not plain.is_multicast
        allowed = [form for form in (forms[0], *forms[2:]) if policy.permits(form)]
        if allowed and not is_public:
            raise Broken(f"{', '.join(allowed)} may be connected to, and {plain} is not public")
        if len(data) >= 16:
            policy.permits(str(ipaddress.IPv6Address(data[:16])))
        return forms

    return run


def _mutate_numeric(rng: Random, data: bytes) -> bytes:
    special = ("0.0.0.0", "100.64.0.1", "192.0.0.192", "192.88.99.1", "198.18.0.1", "224.0.0.1", "240.0.0.1",
               "255.255.255.255", "168.63.129.16", "172.16.0.1", "192.168.0.1", "192.0.2.1")  # fmt: skip
    if rng.random() < 0.5:
        number = int(ipaddress.IPv4Address(rng.choice(special))) + rng.choice((-1, 0, 0, 1, 255))
        return struct.pack(">I", number & 0xFFFFFFFF)
    return bytes(rng.randrange(256) for _ in range(rng.choice((4, 16))))


# ---- responses


class _Server:
    """Responds to every request with the bytes that it is given, and closes."""

    def __init__(self) -> None:
        self.response = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                try:
                    connection.settimeout(1.0)
                    connection.recv(65536)
                    connection.sendall(self.response.replace(b"{port}", str(self.port).encode()))
                except OSError:
                    continue


def _responses() -> list[bytes]:
    return [
        seeds.response(body=b"x" * 100),
        seeds.response("302 Found", Location="http://127.0.0.1:{port}/next"),
        seeds.response("301 Moved", Location="http://10.0.0.1/"),
        seeds.response("404 Not Found"),
        seeds.response(body=b"x", X_Robots_Tag="noai, otherbot: noindex"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        seeds.response(body=b"\x1f\x8b", Content_Encoding="gzip"),
    ]


def _prepare_response() -> Run:
    from stages.download_shards.config import DownloadShardsConfig
    from stages.download_shards.http.fetch import Fetcher
    from stages.download_shards.http.ssrf_filter import AddressPolicy, ForbiddenAddress
    from stages.download_shards.http.watchdog import Watchdog

    class Loopback(AddressPolicy):
        """Never asks for names or connects elsewhere, whatever a response says."""

        def connect(self, host: str, port: int, timeout: float) -> socket.socket:
            if host != "127.0.0.1":
                raise ForbiddenAddress
            return super().connect(host, port, timeout)

    server, watchdog = _Server(), Watchdog()
    watchdog.__enter__()
    config = DownloadShardsConfig(
        source={"kind": "url_list", "path": "x.txt"}, timeout=0.3, max_seconds=1.0, max_bytes=100_000, max_redirects=2
    )
    fetch = Fetcher(config, Loopback(["127.0.0.1/32"]), watchdog)

    def run(data: bytes, folder: Path) -> object:
        server.response = data
        content = fetch(f"http://127.0.0.1:{server.port}/")
        if len(content) > config.max_bytes:
            raise Broken(f"{len(content)} bytes")
        return content

    return run


def _mutate_response(rng: Random, data: bytes) -> bytes:
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    at = rng.randrange(len(lines))
    changed = rng.choice(
        (b"Content-Length: -1", b"Content-Length: 99999999999", b"Content-Length: x", b"Transfer-Encoding: chunked",
         b"Location: http://127.0.0.1:99999/", b"Location: http://[/", b"Location: file:///etc/passwd",
         b"Location: \xff\xfe", b"Location: ///", b"Content-Encoding: br", b"X: " + b"y" * 70_000, b"HTTP/9.9 999 \xff",
         b"HTTP/1.1 1000 x", b"HTTP/1.1 -200 x", b": x", b" folded", mutate_bytes(rng, lines[at]))
    )  # fmt: skip
    if rng.random() < 0.5:
        lines[at] = changed
    else:
        lines.insert(at, changed)
    if rng.random() < 0.1:
        lines += [b"H%d: x" % number for number in range(300)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + (mutate_bytes(rng, body) if rng.random() < 0.3 else body)


TARGETS = (
    Target("address", _addresses, _prepare_address, (mutate_bytes,)),
    Target("address_policy", _numeric, _prepare_policy, (_mutate_numeric,), weight=0.5),
    Target("http_response", _responses, _prepare_response, (_mutate_response, mutate_bytes), weight=2),
)
