"""Train the prior: from a caption to an image embedding."""
