"""Errors of the compute layer.

ClusterError
├── NotStarted      Ray does not come up on this machine
├── Unreachable     no Ray cluster answers at the address
└── TrainingLost    a training group lost a process again and again
"""


class ClusterError(Exception):
    """Root of the compute layer; the message is what the user reads."""


class NotStarted(ClusterError):
    """Ray does not come up on this machine."""


class Unreachable(ClusterError):
    """No Ray cluster answers at the address."""


class TrainingLost(ClusterError):
    """A training group lost a process again and again."""
