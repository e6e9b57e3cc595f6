"""A driver of one artifact in a process of its own: takes the lease, makes what is left of three units, seals.

python -m tests.integration.driver STORE LOCKS RUN SECONDS, with SECONDS for each unit; what it does goes to its output.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.mapping import map_in_process
from cluster.training import launch_in_process
from pipeline.errors import PipelineError
from pipeline.leases import Leases, LeaseTimes
from stages.contract.errors import LeaseLost
from stages.contract.runner import run_stage
from stages.contract.stage import StageContext, StageSummary
from stages.download_shards.config import DownloadShardsConfig
from stages.storage.artifact import Artifact, Output

NAME, UNITS = "download_shards-f0", ("00000", "00001", "00002")


def main(store: str, locks: str, run: str, seconds: str) -> int:
    """Make the artifact and return the exit code."""

    def make(config: Any, inputs: Mapping[str, Artifact], output: Output, context: StageContext) -> StageSummary:
        done = output.done_units()
        for unit in (one for one in UNITS if one not in done):
            report(f"begin {unit}")
            time.sleep(float(seconds))
            output.write_bytes(f"data/{unit}.txt", unit.encode())
            output.finish_unit(unit, {"images": 1})
            report(f"done {unit}")
        return StageSummary(items=len(UNITS))

    leases = Leases(store, Path(locks), run=run, times=LeaseTimes(timeout=3.0), report=report)
    try:
        with leases.holding([NAME]):
            output = Output(f"{store}/artifacts/download_shards/f0", "download_shards", "f0", fence=leases.fence(NAME))
            config = DownloadShardsConfig(source={"kind": "folder", "path": locks}, rows_per_shard=1)
            identity = {"source": {"kind": "folder", "path": "images"}}
            context = StageContext(lambda event: None, map_in_process, launch_in_process)
            run_stage(make, config, inputs={}, output=output, context=context, identity=identity)
            leases.check()
    except (PipelineError, LeaseLost) as error:
        report(f"ended: {error}")
        return 4
    return 0


def report(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
