"""Two networks on this machine, each with an address of its own and a cable between them, as two nodes have.

For root alone, by ``ip netns`` of iproute2.
"""

import os
import shutil
import subprocess
import threading
import uuid

ADDRESSES = ("10.213.77.1", "10.213.77.2")


def can_be_made() -> bool:
    """Return whether this machine and user can make networks."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = _new_name()
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        _ip("netns", "delete", name)
    return made


class Networks:
    """The two networks; node 0 and node 1 are at ``ADDRESSES``."""

    def __init__(self) -> None:
        self.name = _new_name()

    def within(self, node: int) -> list[str]:
        """Return what precedes a command that is run on a node."""
        return ["ip", "netns", "exec", f"{self.name}{node}"]

    def make(self) -> None:
        """Make them."""
        names = [f"{self.name}{node}" for node in (0, 1)]
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _ip("-n", name, "link", "set", link, "up")

    def cut(self, seconds: float) -> None:
        """Take the cable out for some seconds."""
        link = ("-n", f"{self.name}1", "link", "set", "eth0")
        _ip(*link, "down")
        timer = threading.Timer(seconds, lambda: _ip(*link, "up", check=False))
        timer.daemon = True
        timer.start()

    def pids(self, node: int) -> list[int]:
        """Return the processes on a node."""
        found = subprocess.run(["ip", "netns", "pids", f"{self.name}{node}"], capture_output=True, check=True)
        return [int(word) for word in found.stdout.split()]

    def remove(self) -> None:
        """Remove what there is of them."""
        for node in (0, 1):
            _ip("netns", "delete", f"{self.name}{node}", check=False)


def _new_name() -> str:
    return f"corgi-{uuid.uuid4().hex[:8]}-"


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)
