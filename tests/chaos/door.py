"""A way to a server that can be shut: connections through it are cut, and new ones are refused or get no answer."""

import contextlib
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator

_WRITTEN = re.compile(rb"PUT /\S*?/(artifacts/\S*?/units/[^\s?]+\.json)")


class Door:
    """Passes connections on to a port of this machine, as long as it is open."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._held: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.records_written: Counter[str] = Counter()
        """How often each unit record was uploaded."""
        self.open()

    def open(self) -> None:
        """Let connections through."""
        with self._lock:
            if self._listener is not None:
                return
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen(64)
            self.port, self._listener = listener.getsockname()[1], listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        """Cut all connections, and refuse new ones."""
        with self._lock:
            listener, self._listener = self._listener, None
            held, self._held = self._held, []
        for one in [*([listener] if listener else []), *held]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    @property
    def is_open(self) -> bool:
        return self._listener is not None

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    is_shut = self._listener is not listener
                    if not is_shut:
                        self._held += [client, server]
                if is_shut:
                    client.close()
                    server.close()
                    return
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(one, other, one is client), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                if is_request:
                    self.records_written.update(match.decode() for match in _WRITTEN.findall(piece))
                target.sendall(piece)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextlib.contextmanager
def door_to(port: int) -> Iterator[Door]:
    """Yield a door to a port, which is shut at the end."""
    door = Door(port)
    try:
        yield door
    finally:
        door.shut()
