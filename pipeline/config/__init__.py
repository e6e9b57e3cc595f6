"""One YAML file is one experiment: its schema, how it is read, and how its errors are told."""

from pipeline.config.loading import load_config
from pipeline.config.schema import RunConfig

__all__ = ["RunConfig", "load_config"]
