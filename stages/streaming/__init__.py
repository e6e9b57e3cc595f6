"""Work shard by shard: one runner of all per-shard stages, streaming from an upstream stage, prefetching."""
