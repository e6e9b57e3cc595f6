"""Model folders as strangers make them: what runs code, reads elsewhere, or is no model."""

import json
import pickle
from pathlib import Path
from typing import Any


class Payload:
    """What a pickle runs when it is loaded: it makes the file ``marker``."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the call."""
        return Path.touch, (self._marker,)


def write_pickle(path: Path, marker: Path) -> Path:
    """Write weights that run code, as torch.save writes any object."""
    import torch

    torch.save({"weight": torch.zeros(30_000), "more": Payload(marker)}, path)
    return path


def write_old_pickle(path: Path, marker: Path) -> Path:
    """Write a plain pickle that runs code."""
    path.write_bytes(pickle.dumps(Payload(marker)) + b"\0" * 100_000)
    return path


def write_code(folder: Path, marker: Path) -> None:
    """Write a Python file that transformers would import for a class of its own."""
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass Evil:\n    pass\n"
    (folder / "evil.py").write_text(code)


def change_json(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; ``a__b`` is the key b of the mapping a."""
    content = json.loads(file.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        inner = content
        for name in parents:
            inner = inner.setdefault(name, {})
        inner[last] = value
    file.write_text(json.dumps(content))
