"""What a recorded configuration names that is no more than a mask: credentials, which records do not keep.

A mask that is used as a value would take the place of what the environment holds.
"""

import os
from collections.abc import Mapping
from typing import Any

from stages.contract.secrets import MASK, without_login

_VARIABLE = "FSSPEC_{}"


def without_masks(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration in which the environment's credentials hold.

    Options of file systems are left out for which fsspec's own variable is set, as are masked ones; so is the address
    that is notified, and the login in that of a tracking server.
    """
    found = dict(tree)
    storage, notify, tracking = (found.get(name) for name in ("storage", "notify", "tracking"))
    if isinstance(storage, Mapping) and isinstance(storage.get("options"), Mapping):
        options = {
            protocol: _unmasked(values)
            for protocol, values in storage["options"].items()
            if _VARIABLE.format(str(protocol).upper()) not in os.environ
        }
        found["storage"] = {**storage, "options": {protocol: values for protocol, values in options.items() if values}}
    if isinstance(notify, Mapping) and MASK in str(notify.get("url") or ""):
        found["notify"] = {**notify, "url": None}
    if isinstance(tracking, Mapping) and str(tracking.get("uri") or "").startswith(("http://", "https://")):
        uri, user, password = without_login(str(tracking["uri"]))
        found["tracking"] = {**tracking, "uri": uri} if MASK in f"{user}{password}" else tracking
    return found


def _unmasked(tree: Any) -> Any:
    """Return options without those that are masked, and without groups of which nothing is left."""
    if isinstance(tree, Mapping):
        kept = {key: _unmasked(value) for key, value in tree.items() if value != MASK}
        return {key: value for key, value in kept.items() if value != {} or tree[key] == {}}
    return tree
