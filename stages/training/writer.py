"""Write checkpoints in a thread, one at a time, while training goes on."""

from concurrent.futures import Future, ThreadPoolExecutor

from stages.formats.checkpoints import Checkpoint, write_checkpoint
from stages.storage.artifact import Output


class CheckpointWriter:
    """Writes checkpoints of one process; an error of writing is raised by the next call."""

    def __init__(self, output: Output, *, keep: int, in_background: bool) -> None:
        self._output, self._keep = output, keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="corgi-checkpoint") if in_background else None
        self._writing: Future[None] | None = None

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, whose tensors nobody changes any more, after the one that is being written."""
        self.wait()
        if self._pool is None:
            write_checkpoint(self._output, checkpoint, keep=self._keep)
        else:
            self._writing = self._pool.submit(write_checkpoint, self._output, checkpoint, keep=self._keep)

    def wait(self) -> None:
        """Wait until all is written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Finish what is being written, and end the thread."""
        if self._pool is not None:
            self._pool.shutdown()
