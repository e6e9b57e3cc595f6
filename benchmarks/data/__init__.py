"""Measurements of the data stages, a module for each stage: ``python -m benchmarks.data [NAME…] [--small]``.

A module of this package that has a function ``tables(options)`` is a benchmark; it yields its tables (or lines of
text) as they are ready, and its name is the module's.
"""
