"""Train a CLIP model on captioned shards and keep it in open_clip's own folder format."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from cluster.owned_folders import scratch_folder
from stages.contract.sizing import Shapes
from stages.contract.stage import StageContext, StageSummary
from stages.formats.clip_folders import write_tokenizer
from stages.storage.artifact import Artifact, Output
from stages.train_clip.config import TrainClipConfig
from stages.train_clip.data import CaptionedImages
from stages.train_clip.tokenizer import take_tokenizer, train_tokenizer
from stages.training.launch import make_task, train

if TYPE_CHECKING:
    from torch import nn


def run(config: TrainClipConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext) -> StageSummary:
    """Learn the tokenizer, then train both towers."""
    images = CaptionedImages(inputs, config.captions, image_size=config.image_size)
    pairs, held_out, _ = images.split(config.split)
    vocab_size = _learn_tokenizer(images.all_captions(pairs), config, output)
    make = partial(make_task, "stages.train_clip.task:ClipTask", config, inputs, output=output, vocab_size=vocab_size)
    counts = {"training_pairs": len(pairs), "held_out_pairs": len(held_out), "vocabulary": vocab_size}
    counts |= {"captioned": images.num_human, "captioned_in_shards": images.in_shards}
    notes = dict(config.lineage)
    if config.captions.reads_pseudo:
        counts["pseudo_captioned"] = images.num_pseudo
        if not images.are_human(held_out).all():
            notes["validated_on"] = "pseudo-captions, as fewer than two images with human captions are held out"
    return train(
        make,
        config.training,
        seed=config.seed,
        output=output,
        context=context,
        item_name="samples",
        counts=counts,
        notes=notes,
    )


def _learn_tokenizer(captions: list[str], config: TrainClipConfig, output: Output) -> int:
    """Write the tokenizer's files beside where the model will be: new ones, or those of the CLIP to begin with.

    The same captions give the same files.
    """
    if config.init_from is not None:
        return take_tokenizer(config, output)
    with scratch_folder("tokenizer") as folder:
        size = train_tokenizer(
            captions, vocab_size=config.vocab_size, context_length=config.context_length, folder=folder
        )
        write_tokenizer(output, folder)
    return size


def planned_module(config: TrainClipConfig, shapes: Shapes) -> "nn.Module":
    """Return what would be trained, for its size."""
    from stages.encoders.open_clip_import import import_open_clip
    from stages.train_clip.task import model_config

    open_clip = import_open_clip(with_timm="timm_model_name" in config.architecture.vision_cfg)
    model: nn.Module = open_clip.CLIP(**model_config(config, config.vocab_size))
    return model
