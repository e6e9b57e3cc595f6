"""Work shard by shard: one runner of all per-shard stages, following an upstream stage, prefetching."""
