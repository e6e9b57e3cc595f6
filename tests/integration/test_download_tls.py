"""Addresses behind TLS: trusted certificates only, and a handshake that never ends is cut off."""

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stages.contract.errors import FailureCause
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.http.fetch import Fetcher, FetchFault
from stages.download_shards.http.ssrf_filter import AddressPolicy
from stages.download_shards.http.watchdog import Watchdog

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def fetch(url: str, max_seconds: float = 60.0) -> bytes:
    limits = DownloadShardsConfig(
        source={"kind": "scenes", "num_images": 1},
        timeout=30.0,
        max_seconds=max_seconds,
        max_bytes=1000,
        max_redirects=0,
    )
    with Watchdog() as watchdog:
        return Fetcher(limits, AddressPolicy(["127.0.0.1"]), watchdog)(url)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a self-signed certificate for 127.0.0.1, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    signed = (
        builder.not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + private)
    return path


@contextlib.contextmanager
def serving(certificate: Path | None) -> Iterator[str]:
    """Serve one connection: by TLS, or, without a certificate, by a byte of a TLS record now and then."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stopped = threading.Event()

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    if certificate is None:
                        for byte in b"\x16\x03\x03\x40\x00" + b"\x02" * 200:
                            connection.sendall(bytes([byte]))
                            if stopped.wait(0.2):
                                return
                    else:
                        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                        context.load_cert_chain(certificate)
                        with context.wrap_socket(connection, server_side=True) as secure:
                            secure.recv(65536)
                            secure.sendall(RESPONSE)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.getsockname()[1]}/image"
        finally:
            stopped.set()
            thread.join(5)


def test_a_file_comes_from_a_trusted_server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(certificate) as url:
        assert fetch(url) == b"hello"


def test_an_unknown_certificate_is_refused(certificate: Path) -> None:
    with serving(certificate) as url, pytest.raises(FetchFault) as caught:
        fetch(url)
    assert (caught.value.cause, caught.value.transient) == (FailureCause.BAD_CERTIFICATE, False)


def test_the_name_in_the_certificate_is_checked(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(certificate) as url, pytest.raises(FetchFault) as caught:
        fetch(url.replace("127.0.0.1", "localhost"))
    assert caught.value.cause is FailureCause.BAD_CERTIFICATE


def test_a_handshake_that_never_ends_is_cut_off() -> None:
    start = time.monotonic()
    with serving(None) as url, pytest.raises(FetchFault) as caught:
        fetch(url, max_seconds=1.0)
    assert (caught.value.cause, caught.value.transient) == (FailureCause.TIMEOUT, True)
    assert time.monotonic() - start < 35  # of the 40 s that it would last
