"""Evaluate a finished run anew, as a run of its own."""
