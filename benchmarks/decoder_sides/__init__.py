"""The processes of ``benchmarks.decoder``."""
