"""From embeddings to the keys of those images that are worth learning from."""
