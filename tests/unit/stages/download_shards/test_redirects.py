"""Where a redirect leads whose address is not of ASCII alone, and by which name a host is asked for."""

import socket
import threading
import urllib.parse
from collections.abc import Iterator

import pytest

from stages.contract.errors import FailureCause
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.http.fetch import Fetcher, FetchFault
from stages.download_shards.http.ssrf_filter import AddressPolicy
from stages.download_shards.http.watchdog import Watchdog


class Web(AddressPolicy):
    """All hosts of a web: one server, which redirects once to each address that it is given and then has a file."""

    def __init__(self, locations: list[bytes]) -> None:
        super().__init__([])
        self.asked: list[tuple[str, str]] = []
        """Host and path of each request."""
        self._replies = [b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % one for one in locations]
        self._replies.append(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfile")
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """Connect to the server, whatever the host."""
        self.asked.append((host, ""))
        return socket.create_connection(self._server.getsockname(), timeout)

    def _serve(self) -> None:
        for reply in self._replies:
            connection, _ = self._server.accept()
            with connection:
                path = connection.recv(10_000).split(b" ")[1].decode("ascii")
                self.asked[-1] = (self.asked[-1][0], path)
                connection.sendall(reply)

    def close(self) -> None:
        """End the server."""
        self._thread.join(60)
        self._server.close()


def follow(url: str, *locations: bytes) -> list[tuple[str, str]]:
    """Return host and path of each request that an address leads to."""
    web = Web([*locations])
    config = DownloadShardsConfig(source={"kind": "scenes", "num_images": 1}, max_redirects=len(locations))
    try:
        with Watchdog() as watchdog:
            assert Fetcher(config, web, watchdog)(url) == b"file"
    finally:
        web.close()
    return web.asked


def both_encodings(text: str) -> Iterator[tuple[bytes, str]]:
    """Yield a text in each encoding, and how an address quotes its bytes."""
    for encoding in ("utf-8", "latin-1"):
        yield text.encode(encoding), urllib.parse.quote(text, safe="/?=", encoding=encoding)


@pytest.mark.parametrize("text", ["/Å/ß.jpg", "/straße/é?q=ü", "/%C3%A9/plain.jpg?a=%20", "/a b.jpg"])
def test_a_redirect_leads_to_the_bytes_of_its_header(text: str) -> None:
    for raw, quoted in both_encodings(text):
        expected = text.replace(" ", "%20") if text.isascii() else quoted
        assert follow("http://a.example/1", raw, b"http://b.example" + raw, b"http://b.example" + raw) == [
            ("a.example", "/1"),
            ("a.example", expected),
            ("b.example", expected),
            ("b.example", expected),
        ]


def test_a_redirect_to_a_host_of_another_script() -> None:
    for raw, quoted in both_encodings("/é"):
        host = "bücher.example".encode("utf-8" if quoted == "/%C3%A9" else "latin-1")
        moved = [b"http://" + host + raw, b"//" + host + b":80" + raw]
        assert follow("http://a.example/", *moved)[1:] == [("xn--bcher-kva.example", quoted)] * 2
    assert follow("http://a.example/", "http://例え.example/画像.png".encode())[1:] == [
        ("xn--r8jz45g.example", "/%E7%94%BB%E5%83%8F.png")
    ]


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("faß.de", "xn--fa-hia.de"),
        ("Faß.DE", "xn--fa-hia.de"),
        ("βόλος.com", "xn--nxasmm1c.com"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("i❤.ws", "xn--i-7iq.ws"),  # which browsers allow, and the standard of 2008 does not
        ("my_host.example", "my_host.example"),
        ("xn--fa-hia.de", "xn--fa-hia.de"),
        ("例え。example", "xn--r8jz45g.example"),
    ],
)
def test_a_host_is_asked_for_by_the_name_that_browsers_use(host: str, asked: str) -> None:
    assert follow(f"http://{host}/1", f"http://{host}/2".encode()) == [(asked, "/1"), (asked, "/2")]


@pytest.mark.parametrize("host", ["a..é", f"{'é' * 64}.de", "a" * 64, "\u2100.de"])
def test_a_name_that_no_host_can_have_is_an_invalid_address(host: str) -> None:
    config = DownloadShardsConfig(source={"kind": "scenes", "num_images": 1})
    with Watchdog() as watchdog, pytest.raises(FetchFault) as caught:
        Fetcher(config, AddressPolicy([]), watchdog)(f"http://{host}/")
    assert caught.value.cause is FailureCause.INVALID_URL
