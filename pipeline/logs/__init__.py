"""The logs of a run: from its processes to its driver, into the store, and out of it."""
