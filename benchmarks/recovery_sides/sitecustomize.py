"""Loaded by every Python process of a timed run, as this folder is on its path."""

import os

if file := os.environ.get("CORGI_TIMED_CALLS"):
    from benchmarks.recovery_sides.timing import install

    install(file)
