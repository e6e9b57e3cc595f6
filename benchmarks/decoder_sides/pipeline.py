"""Our side of ``benchmarks.decoder``: the stage's own task in the one training loop, from tar shards."""

import contextlib
import functools
import itertools
import os
import statistics
import sys

from benchmarks.decoder_sides.case import Case
from benchmarks.sides.serving import Stopwatch, Timing, serve
from cluster.training import TrainGroup, launch_in_process
from stages.contract.events import Event, Metrics
from stages.storage.artifact import Output
from stages.train_decoder.stage import make_task
from stages.training.job import TrainJob
from stages.training.launch import training_process


def main() -> None:
    """Serve."""
    case = Case.from_command_line()
    runs = itertools.count()
    serve({"train": lambda: train(case, next(runs))})


def train(case: Case, number: int) -> Timing:
    """Train from the beginning, and time what lies between the end of the warm-up and the last step."""
    config = case.decoder()
    output = Output(f"{case.folder}/train_decoder-{os.getpid()}-{number}", "train_decoder", "bench")
    job = TrainJob(
        functools.partial(make_task, config, case.inputs), config.training, config.seed, output, case.device == "cuda"
    )
    stopwatch, timing, waits = Stopwatch(case.device), Timing(0, 0), []

    def note(event: Event) -> None:
        nonlocal stopwatch, timing
        if not isinstance(event, Metrics) or "data_wait_fraction" not in event.values:
            return
        if event.step == case.warmup:
            stopwatch = Stopwatch(case.device)
        else:
            waits.append(event.values["data_wait_fraction"])
            timing = stopwatch.read()

    with contextlib.redirect_stdout(sys.stderr):
        launch_in_process(training_process, job, TrainGroup(1), note)
    return Timing(timing.seconds, timing.cpu_seconds, statistics.mean(waits))


if __name__ == "__main__":
    main()
