"""``corgi report``: a run, or one artifact, as one HTML file that needs nothing else."""
