"""Whether a Ray cluster asks for a token, and refusal of one that takes commands from anyone who reaches it.

Each of Ray's servers is asked something harmless without a token: the job server for its version, the cluster's control
service whether it lives, the server of Ray clients for a ping.
"""

import http.client
import ipaddress
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from cluster.errors import Unauthenticated, Unreachable

TOKEN_REMEDY = "set RAY_AUTH_MODE=token, and the head's token in ~/.ray/auth_token or RAY_AUTH_TOKEN"
#: "unknown": nothing responds, or something that is not Ray or speaks TLS; whoever connects reports what is wrong.
Authentication = Literal["required", "open", "unknown"]
SECONDS = 5.0
_MAX_REPLY = 10_000  # bytes of a version


def check_authentication(address: str, *, allowed: bool, where: str, option: str) -> bool:
    """Return whether the cluster takes commands without a token; on loopback, and where it is allowed, it may.

    ``address`` is that of a job server (http://…), of a server of Ray clients (ray://…) or of a cluster (host:port);
    one that names no host is not asked. ``where`` and ``option`` are what the user sets: address and permission.

    Raises:
        Unauthenticated: anyone who reaches the cluster may run commands on it.
        Unreachable: the address is none.
    """
    if host_of(address) is None or authentication_at(address) != "open":
        return False
    if not allowed and not is_loopback(host_of(address) or ""):
        raise Unauthenticated(
            f"{where}: the Ray cluster at {address!r} asks for no token, so that anyone who reaches it can run "
            "commands there and read its data: allowed are clusters with token authentication, and those on loopback: "
            "start it again after `ray get-auth-token --generate` and with RAY_AUTH_MODE=token (docs/cluster.md), or "
            f"set {option}"
        )
    return True


def authentication_at(address: str, token: str | None = None) -> Authentication:
    """Return what the server at an address does with a request that has no token, or with one that has this token."""
    if "://" not in address:
        return _ask_control_service(address, token)
    if address.startswith("ray://"):
        return _ask_client_server(address.removeprefix("ray://"), token)
    return _ask_job_server(address, token)


def find_token() -> tuple[str, str] | None:
    """Return the token that Ray would send from here, and where it is from; None: there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return (token, str(path)) if token else None


def token_fault(address: str) -> str | None:
    """Return why a cluster that asks for a token does not take this user's; None: it does, or asks for none."""
    if authentication_at(address) != "required":
        return None
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return "asks for a token, and RAY_AUTH_MODE is not token here"
    if (token := find_token()) is None:
        return "asks for a token, and there is none here"
    if authentication_at(address, token[0]) != "open":
        return f"does not take the token of {token[1]}"
    return None


def host_of(address: str) -> str | None:
    """Return the host that an address names; None: it names none ("auto").

    Raises:
        Unreachable: it is no address.
    """
    if "://" not in address and not is_port(address.rpartition(":")[2]):
        return None
    try:
        return urlsplit(address if "://" in address else f"//{address}").hostname
    except ValueError as error:
        raise Unreachable(
            f"cluster: {address!r} is no address ({error}): allowed are host:port, ray://host:port and "
            "http://host:port: correct --address, cluster.address or RAY_ADDRESS, whichever says so"
        ) from None


def is_port(text: str) -> bool:
    """Return whether the end of an address is the number of a port."""
    return text.isascii() and text.isdigit()


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine's loopback, under whichever of its names."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except (OSError, ValueError):  # the latter of what is no name of a host
        return False
    return all(ipaddress.ip_address(str(one).partition("%")[0]).is_loopback for one in found)


def _headers(token: str | None) -> tuple[tuple[str, str], ...]:
    return () if token is None else (("authorization", f"Bearer {token}"),)


def _ask_job_server(address: str, token: str | None) -> Authentication:
    request = urllib.request.Request(f"{address.rstrip('/')}/api/version", headers=dict(_headers(token)))
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            is_ray = b'"ray_version"' in reply.read(_MAX_REPLY)
    except urllib.error.HTTPError as error:
        return "required" if error.code in {401, 403} else "unknown"
    except (OSError, ValueError, http.client.HTTPException):
        return "unknown"
    return "open" if is_ray else "unknown"


def _ask_control_service(address: str, token: str | None) -> Authentication:
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    return _ask(address, lambda channel: NodeInfoGcsServiceStub(channel).CheckAlive, CheckAliveRequest(), token)


def _ask_client_server(address: str, token: str | None) -> Authentication:
    from ray.core.generated.ray_client_pb2 import ClusterInfoRequest, ClusterInfoType
    from ray.core.generated.ray_client_pb2_grpc import RayletDriverStub

    request = ClusterInfoRequest(type=ClusterInfoType.PING)
    return _ask(address, lambda channel: RayletDriverStub(channel).ClusterInfo, request, token)


def _ask(address: str, method: Any, request: Any, token: str | None) -> Authentication:
    import grpc

    options = (("grpc.enable_http_proxy", 0),)  # Ray uses none either
    try:
        with grpc.insecure_channel(address, options=options) as channel:
            method(channel)(request, timeout=SECONDS, metadata=_headers(token))
    except grpc.RpcError as error:
        closed = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
        return "required" if error.code() in closed else "unknown"
    except ValueError:  # an address that is no text
        return "unknown"
    return "open"
