"""End what a killed driver leaves behind of its own Ray: a program that waits for the driver's end.

Ray's raylet and head end with the driver that started them, and its workers with the raylet. Its two agents try for a
minute to report that to the head which is gone; their limit of time cannot be set. This program is started beside them
with the folder of that Ray, and reads from the driver until nobody is there any more.
"""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator

import psutil

_PATIENCE = 3.0  # seconds for processes to end by themselves


def main(folder: str) -> None:
    """Wait for the end of standard input, then kill the processes of the Ray in a folder, and remove the folder."""
    while sys.stdin.buffer.read(1):
        pass
    time.sleep(_PATIENCE)
    for process in processes_of(folder):
        with contextlib.suppress(psutil.Error):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: str) -> Iterator[psutil.Process]:
    """Yield workers and agents of the Ray in a folder, by their logs there: they are nobody's children."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_rays = "".join(process.cmdline()[:1]).startswith("ray::")
            if is_rays and any(file.path.startswith(f"{folder}/") for file in process.open_files()):
                yield process


if __name__ == "__main__":
    main(*sys.argv[1:])
