"""All faults, by name; a module for each family."""

from tests.chaos.fault import Fault
from tests.chaos.faults import disk, drivers, nodes, processes, rot, servers

_ALL: tuple[Fault, ...] = (
    *processes.FAULTS, *rot.FAULTS, *disk.FAULTS, *servers.FAULTS, *drivers.FAULTS, *nodes.FAULTS,
)  # fmt: skip
FAULTS: dict[str, Fault] = {fault.name: fault for fault in _ALL}
