"""Imports what training needs; the process that training processes are forked from does so once for all of them."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"

import torch

from stages.training.engine import _deepspeed

_deepspeed()
torch.optim.AdamW([torch.zeros(1)])  # imports torch._dynamo
import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: E402, F401  what every engine looks at
