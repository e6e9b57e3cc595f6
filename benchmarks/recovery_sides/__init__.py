"""What benchmarks.recovery puts into the processes of a run."""
