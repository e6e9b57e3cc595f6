"""The two sides of ``benchmarks.prior``, each a process of its own that works on request."""
