"""Measure the mean color of the images."""

import functools
from collections.abc import Mapping

from stages.contract.stage import StageContext, StageSummary
from stages.measure_colors.config import MeasureColorsConfig
from stages.measure_colors.worker import ColorRecord, make_color_worker
from stages.storage.artifact import Artifact, Output
from stages.streaming.runner import run_on_shards


def run(
    config: MeasureColorsConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Measure every shard that is not done yet."""
    shards = inputs["download_shards"]
    make_worker = functools.partial(make_color_worker, config, shards)
    records, totals = run_on_shards(ColorRecord, make_worker, shards, output, context)
    images = totals.images
    red, green, blue = (
        config.scale / 255 * sum(record.sums[channel] for record in records.values()) / images for channel in range(3)
    )
    return StageSummary(items=images, counts={"images": images}, metrics={"red": red, "green": green, "blue": blue})
