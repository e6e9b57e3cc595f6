"""Import open_clip without what its use here never touches.

Importing open_clip takes 11 s of a CPU. Half of that is torch's compiler (torch._dynamo), which torchvision asks for
one function used by detection models, and timm for a decorator; timm itself is optional in open_clip. Without them it
takes 5 s, of which torch is 3 s. That counts: every worker process imports it anew.
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
    """Let `import timm` fail, unless it is there already."""
    if "timm" in sys.modules:
        yield
        return
    sys.modules["timm"] = None  # type: ignore[assignment]  # the documented way to say that a module is absent
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
