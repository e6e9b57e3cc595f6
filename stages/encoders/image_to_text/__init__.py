"""Models of transformers that read images and write texts: what their folders may say, and how they are loaded."""
