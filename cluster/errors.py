"""Errors of the compute layer.

ClusterError
├── NotStarted      Ray does not start on this machine
├── Unreachable     no Ray cluster responds at the address
└── TrainingLost    a training group lost processes repeatedly
"""


class ClusterError(Exception):
    """Root of the compute layer; the message is what the user reads."""


class NotStarted(ClusterError):
    """Ray does not start on this machine."""


class Unreachable(ClusterError):
    """No Ray cluster responds at the address."""


class TrainingLost(ClusterError):
    """A training group lost processes repeatedly."""
