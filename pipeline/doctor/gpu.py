"""GPUs: whether there are any, with a driver, and seen by torch; and the libraries by which processes communicate."""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.doctor.finding import Finding, Subject, error, ok

DEVICES = Path("/sys/bus/pci/devices")
DRIVER = Path("/proc/driver/nvidia/version")
_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # the class of graphics cards and accelerators


def check(subject: Subject) -> Iterator[Finding]:
    """Yield what there is, from the hardware up."""
    import torch

    num_cards = _num_cards()
    driver = re.search(r"Kernel Module\D*([\d.]+)", DRIVER.read_text()) if DRIVER.is_file() else None
    version = driver[1] if driver else None
    num_seen = torch.cuda.device_count()
    if num_seen:
        names = ", ".join(sorted({torch.cuda.get_device_name(index) for index in range(num_seen)}))
        yield ok("gpu", f"{num_seen} × {names}, driver {version or 'unknown'}, CUDA {torch.version.cuda}")
    elif not num_cards and version is None:
        yield ok("gpu", "there is none: everything runs on CPUs")
    elif version is None:
        yield error("gpu", f"{num_cards} NVIDIA GPUs and no driver", "install NVIDIA's driver on the machine")
    elif torch.version.cuda is None:
        yield error("gpu", f"driver {version}, and torch {torch.__version__} has no CUDA", "install torch with CUDA")
    else:
        yield error(
            "gpu",
            f"driver {version}, and torch, made for CUDA {torch.version.cuda}, sees no GPU",
            "install a newer driver; in a container give it the GPUs (--gpus all, nvidia.com/gpu); "
            "and check CUDA_VISIBLE_DEVICES",
        )
    yield from _check_communication(needs_nccl=num_seen > 0)


def _num_cards() -> int:
    return sum(
        (card / "vendor").read_text().strip() == _NVIDIA and (card / "class").read_text().startswith(_DISPLAY)
        for card in (DEVICES.iterdir() if DEVICES.is_dir() else ())
    )


def _check_communication(*, needs_nccl: bool) -> Iterator[Finding]:
    from torch import distributed

    remedy = "install the build of torch that is made for this machine (constraints.txt)"
    if not distributed.is_available() or not distributed.is_gloo_available():
        yield error("communication", "torch has no gloo: groups of training processes cannot form", remedy)
    elif needs_nccl and not distributed.is_nccl_available():
        yield error("communication", "torch has no NCCL: training on several GPUs cannot start", remedy)
    else:
        yield ok("communication", "gloo" + (" and NCCL" if distributed.is_nccl_available() else ""))
