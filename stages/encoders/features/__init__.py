"""Networks whose features of images are compared as distributions, each by its name and the digest of its weights."""
