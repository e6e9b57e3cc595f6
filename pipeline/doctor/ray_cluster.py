"""The Ray cluster that a run would use: whether it responds, and whether it asks for a token and takes this user's."""

import os
from collections.abc import Iterator

from cluster.authentication import TOKEN_REMEDY, authentication_at, find_token, host_of, is_loopback, token_fault
from pipeline.doctor.finding import Finding, Subject, error, ok, warning

_START = "start the cluster again after `ray get-auth-token --generate` and with RAY_AUTH_MODE=token (docs/cluster.md)"


def check(subject: Subject) -> Iterator[Finding]:
    """Yield what the cluster does with and without a token, and how this user's token is kept."""
    if subject.address is None:
        yield ok("ray", "no cluster is named: a run starts Ray in its own process")
    elif host_of(subject.address) is None:
        yield ok("ray", f"the address is {subject.address!r}: Ray searches for a cluster on this machine")
    else:
        yield from _check_cluster(subject.address)
    yield from _check_token()


def _check_cluster(address: str) -> Iterator[Finding]:
    state = authentication_at(address)
    if state == "unknown":
        yield error(
            "ray", f"no Ray responds at {address!r}", "start it with `ray start --head`, or correct the address"
        )
    elif state == "open":
        kind = warning if is_loopback(host_of(address) or "") else error
        yield ok("ray", f"the cluster at {address!r} responds")
        yield kind("token", f"the cluster at {address!r} asks for no token: who reaches it runs commands there", _START)
    elif fault := token_fault(address):
        yield error("ray", f"the cluster at {address!r} {fault}", TOKEN_REMEDY)
    elif token := find_token():
        yield ok("ray", f"the cluster at {address!r} responds, and takes the token of {token[1]}")


def _check_token() -> Iterator[Finding]:
    token = find_token()
    if token is None:
        yield warning(
            "token",
            "there is no token: a cluster that is started here is open to all who reach it",
            "run `ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token` before `ray start`",
        )
        return
    _, origin = token
    if os.path.isfile(origin) and os.stat(origin).st_mode & 0o077:
        yield warning("token", f"other users of this machine can read {origin}", f"run `chmod 600 {origin}`")
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        yield warning(
            "token",
            f"there is a token ({origin}), and RAY_AUTH_MODE is not token: other nodes and clients do not send it",
            "export RAY_AUTH_MODE=token on every machine",
        )
    else:
        yield ok("token", f"RAY_AUTH_MODE is token, and the token is that of {origin}")
