"""The one-step prior: a projection trained by squared error and contrast."""
