"""Train the second super-resolution model of a cascade: the first one's images, enlarged."""

from stages.training.upsampling.launch import planned_module, run

__all__ = ["planned_module", "run"]
