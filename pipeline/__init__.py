"""What runs, in which order, with what record: CLI, run configuration, graph, executor, store, tracking, report."""
