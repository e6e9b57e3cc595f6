"""Train the first super-resolution model of a cascade: the decoder's images, enlarged."""

from stages.training.upsampling.launch import planned_module, run

__all__ = ["planned_module", "run"]
