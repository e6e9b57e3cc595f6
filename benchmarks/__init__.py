"""Measurements of speed, each a module of its own: ``python -m benchmarks.<name>``."""
