"""What both sides are given, and how they are asked: names of works in on standard input, JSON lines out."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

NUM_TIMESTEPS = 1000
TEXT_DROPOUT = 0.1
SHORTEST, LONGEST = 8, 32  # tokens of the shorter captions, drawn uniformly


@dataclass(frozen=True)
class Case:
    """One comparison: both networks have this size and both read these captions."""

    width: int  # of tokens and embeddings alike, because dalle2-pytorch knows only one
    num_layers: int
    num_heads: int
    text_tokens: int
    batch: int  # pairs of a training step
    captions: int  # of one sampling
    num_steps: int
    precision: str
    threads: int
    device: str

    def to_json(self) -> str:
        """Return the case as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_command_line(cls) -> "Case":
        """Read the case that this process was started with, and set up torch for it."""
        case = cls(**json.loads(sys.argv[1]))
        torch.set_num_threads(case.threads)
        torch.manual_seed(0)
        return case

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision as torch names it."""
        found: torch.dtype = getattr(torch, self.precision)
        return found

    def embeddings(self, rows: int) -> Tensor:
        """Return embeddings of images or captions: [rows, width]."""
        return torch.randn(rows, self.width, device=self.device, dtype=self.dtype)

    def states(self, rows: int, lengths: Tensor) -> Tensor:
        """Return token states with zeros in the padding: [rows, text_tokens, width]."""
        values = torch.randn(rows, self.text_tokens, self.width, device=self.device, dtype=self.dtype)
        valid = torch.arange(self.text_tokens, device=self.device) < lengths[:, None]
        return torch.where(valid[:, :, None], values, 0)

    def lengths(self, rows: int, *, short: bool) -> Tensor:
        """Return the captions' true lengths: all the longest, or drawn between 8 and 32."""
        if not short:
            return torch.full((rows,), self.text_tokens, device=self.device)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(SHORTEST, min(LONGEST, self.text_tokens) + 1, (rows,), generator=generator)
        return drawn.to(self.device)


def serve(case: Case, works: dict[str, Callable[[], None]], constants: dict[str, float]) -> None:
    """Do each work once, uncounted; then answer every line with the seconds that its work takes now."""
    for work in works.values():
        work()
    answer(constants)
    for line in sys.stdin:
        _wait(case)
        began, used = time.perf_counter(), time.process_time()
        works[line.strip()]()
        _wait(case)
        answer({"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used})


def answer(data: dict[str, float]) -> None:
    """Write one line for the other process."""
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


def _wait(case: Case) -> None:
    """Wait for work that a GPU still has before it."""
    if case.device != "cpu":
        torch.cuda.synchronize()
