"""Import open_clip without timm, which is optional, and without torch's compiler.

``import open_clip`` takes 7.9 s of a CPU and 880 MB in every worker process; without both 4.4 s and 690 MB, of which
torch is 2.5 s and 610 MB. Leaving out one of them saves little (6.6 s without timm, 7.6 s without the compiler),
because timm imports the compiler for a decorator, and torchvision for one function of detection models.
test_open_clip_import.py holds this to be needed, and right.
"""

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

_DYNAMO = "torch._dynamo"


def import_open_clip(*, with_timm: bool = False) -> Any:
    """Import open_clip; with timm only if a model has a timm vision tower."""
    if with_timm and "open_clip" in sys.modules and sys.modules["open_clip.timm_model"].timm is None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "open_clip"]:
            del sys.modules[name]
    with contextlib.ExitStack() as stack:
        if not with_timm:
            stack.enter_context(_without_timm())
            stack.enter_context(_without_dynamo())
        import open_clip
    return open_clip


@contextlib.contextmanager
def _without_timm() -> Iterator[None]:
    """Let `import timm` fail, unless it is imported already."""
    if "timm" in sys.modules:
        yield
        return
    sys.modules["timm"] = None  # type: ignore[assignment]  # the documented mark of an absent module
    try:
        yield
    finally:
        del sys.modules["timm"]


@contextlib.contextmanager
def _without_dynamo() -> Iterator[None]:
    """Give torchvision a function that imports the compiler only when it is called."""
    if _DYNAMO in sys.modules or "torchvision" in sys.modules:
        yield
        return
    package, utils = types.ModuleType(_DYNAMO), types.ModuleType(f"{_DYNAMO}.utils")
    package.__path__ = []
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules[_DYNAMO], sys.modules[f"{_DYNAMO}.utils"] = package, utils
    try:
        import torchvision  # noqa: F401
    finally:
        del sys.modules[f"{_DYNAMO}.utils"], sys.modules[_DYNAMO]
    yield


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))
