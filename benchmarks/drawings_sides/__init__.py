"""Parts of benchmarks/drawings.py."""
