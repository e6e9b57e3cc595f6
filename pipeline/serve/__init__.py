"""``corgi serve``: a finished model over HTTP; as MLflow serves it: :mod:`pipeline.serving`."""
