"""Errors of the compute layer.

ClusterError
├── Unreachable     no Ray cluster answers at the address
└── TooFewResources the machines cannot hold what is asked of them
"""


class ClusterError(Exception):
    """Root of the compute layer; the message is what the user reads."""


class Unreachable(ClusterError):
    """No Ray cluster answers at the address."""


class TooFewResources(ClusterError):
    """The machines cannot hold what is asked of them."""
