"""From shards of images and captions to CLIP embeddings."""
