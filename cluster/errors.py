"""Errors of the compute layer.

ClusterError
├── NotStarted      Ray does not start on this machine
├── HeadLost        a process of Ray is gone, or its machine out of reach, without which it cannot go on
├── Unreachable     no Ray cluster responds at the address
├── Unauthenticated the cluster takes commands from anyone who reaches it
├── Refused         Ray's job server takes no such job
├── WorkersLost     workers of a map were lost repeatedly, at the same items or before they were ready
├── TrainingLost    a training group lost processes repeatedly
├── QueueFull       as many requests wait for a served model as may
├── ModelFailed     a served model failed on a request, or has no process
├── ItemLimit       an item exceeded a limit of the process that isolates it, or ended that process
└── IsolationFailed a process that isolates items does not start, or its handler is wrong
"""


class ClusterError(Exception):
    """Root of the compute layer; the message is what the user reads."""


class NotStarted(ClusterError):
    """Ray does not start on this machine."""


class HeadLost(ClusterError):
    """A process of Ray is gone, or its machine out of reach, without which it cannot go on."""


class Unreachable(ClusterError):
    """No Ray cluster responds at the address, or it does not take this user's token."""


class Unauthenticated(ClusterError):
    """The cluster takes commands from anyone who reaches it, which the user has not allowed."""


class Refused(ClusterError):
    """Ray's job server takes no such job."""


class WorkersLost(ClusterError):
    """Workers of a map were lost repeatedly, at the same items or before they were ready."""


class TrainingLost(ClusterError):
    """A training group lost processes repeatedly."""


class QueueFull(ClusterError):
    """As many requests wait for a served model as may."""


class ModelFailed(ClusterError):
    """A served model failed on a request, or has no process."""


class ItemLimit(ClusterError):
    """An item exceeded a limit of the process that isolates it, or ended that process; the message says how."""


class IsolationFailed(ClusterError):
    """A process that isolates items does not start, or its handler is wrong."""
