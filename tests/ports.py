"""Port numbers for the servers that tests start."""

import contextlib
import random
import socket

_LISTENING = range(20_000, 32_768)  # below the ports that Linux draws for connections, above those of Ray's workers
_given: set[int] = set()


def free_port() -> int:
    """Return a TCP port that nothing listens on, and that no earlier call of this process has returned.

    A port that the kernel chooses, and that is closed again, may be chosen for the next server or connection.
    """
    while True:
        port = random.SystemRandom().choice(_LISTENING)  # seeded draws would be those of the other test processes
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port
