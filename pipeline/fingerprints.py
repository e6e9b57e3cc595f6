"""The content address of an artifact."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from stages.contract.stage import StageConfig


def fingerprint_of(section: StageConfig, identity: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the content address of a stage's artifact: its config, its inputs and its code version."""
    content = {
        "stage": section.stage,
        "code_version": section.code_version,
        "config": identity,
        "inputs": dict(sorted(inputs.items())),
        **section.identity_with(inputs),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
