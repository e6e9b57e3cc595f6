"""Caption images by a model, so that those without human captions teach the prior, too."""
