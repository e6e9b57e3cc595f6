"""Train the decoder on all images."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from stages.contract.stage import StageContext, StageSummary
from stages.storage.artifact import Artifact, Output
from stages.train_decoder.config import TrainDecoderConfig
from stages.training.launch import train

if TYPE_CHECKING:
    from stages.training.images.task import DecoderTask


def run(
    config: TrainDecoderConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Train, or go on training, and leave the decoder in decoder/.

    Raises:
        InputFault: there are no images, or the batch does not divide among the workers.
    """
    make = partial(make_task, config, inputs)
    return train(make, config.training, seed=config.seed, output=output, context=context)


def make_task(config: TrainDecoderConfig, inputs: Mapping[str, Artifact]) -> "DecoderTask":
    """Make the task of the kind in a training process, importing what this kind needs and nothing else."""
    match config.kind:
        case "pixel_diffusion":
            from stages.train_decoder.pixel_diffusion.task import PixelDiffusionTask

            return PixelDiffusionTask(config, inputs)
        case "latent_diffusion":
            from stages.train_decoder.latent_diffusion.task import LatentDiffusionTask

            return LatentDiffusionTask(config, inputs)
        case "vq_autoregressive":
            from stages.train_decoder.vq_autoregressive.task import VQAutoregressiveTask

            return VQAutoregressiveTask(config, inputs)
        case "stable_diffusion":
            from stages.train_decoder.stable_diffusion.task import StableDiffusionTask

            return StableDiffusionTask(config, inputs)
        case "stylegan2":
            from stages.train_decoder.stylegan2.task import StyleGan2Task

            return StyleGan2Task(config, inputs)
