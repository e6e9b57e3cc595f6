"""Embeddings in the layout of embedding-reader and clip-retrieval, and the token states of captions beside them."""
