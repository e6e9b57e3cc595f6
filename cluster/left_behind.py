"""End what a killed driver leaves behind of its own Ray: a program that waits for the driver's end.

Ray's raylet and head end with the driver that started them, and its workers with the raylet. Its two agents try for a
minute to report that to the head which is gone; their limit of time cannot be set. This program is started before them
with the folder of that Ray, and reads from the driver until nobody is there any more. It looks several times: what a
raylet has just started takes a second to be known.
"""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator

import psutil

_PATIENCE = 3.0  # seconds for processes to end by themselves
_POLLS = 4


def main(folder: str) -> None:
    """Wait for the end of standard input, then kill the processes of the Ray in a folder, and remove the folder."""
    while sys.stdin.buffer.read(1):
        pass
    for _ in range(_POLLS):
        time.sleep(_PATIENCE)
        for process in processes_of(folder):
            with contextlib.suppress(psutil.Error):
                process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: str) -> Iterator[psutil.Process]:
    """Yield workers and agents of the Ray in a folder: they are nobody's children.

    They name the folder on their command lines until they call themselves ``ray::``; then their logs lie there.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words, within = process.cmdline(), f"{folder}/"
            named = any(word.startswith("--") and within in word for word in words)
            is_rays = "".join(words[:1]).startswith("ray::")
            if named or (is_rays and any(file.path.startswith(within) for file in process.open_files())):
                yield process


if __name__ == "__main__":
    main(*sys.argv[1:])
