"""Which errors of a rank mean that it could not reach another one."""

import pytest
import torch

from cluster.lost_ranks import is_communication_error
from stages.contract.errors import InputFault
from stages.storage.patience import StorageAway


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp"),
        torch.distributed.DistNetworkError("The client socket has timed out"),
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:9131"),
        RuntimeError("Connection reset: TCPStore"),
        ConnectionResetError(104, "Connection reset by peer"),
        raised_from(ValueError("a step failed"), BrokenPipeError(32, "Broken pipe")),
    ],
    ids=["nccl", "store", "gloo", "tcp store", "reset", "cause"],
)
def test_a_rank_that_cannot_reach_others(error: Exception) -> None:
    assert is_communication_error(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("gloo is no optimiser"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        FileNotFoundError(2, "No such file or directory"),
        raised_from(KeyError("image"), IndexError("row 3")),
        raised_from(StorageAway("storage.patience: s3://store: away for 60 minutes"), ConnectionRefusedError()),
        raised_from(InputFault("train_decoder: the source closed the connection"), ConnectionResetError()),
        raised_from(ValueError("no batch"), raised_from(StorageAway("away"), ConnectionRefusedError())),
        raised_from(RuntimeError("gloo: closed while the group is left"), StorageAway("away")),
    ],
    ids=["words", "memory", "shapes", "file", "cause", "store", "source", "wrapped", "after it"],
)
def test_a_ranks_own_error(error: Exception) -> None:
    assert not is_communication_error(error)
