"""Names of files in an artifact: what a record from elsewhere holds as one must not lead out of the folder."""

import os

_LONGEST_PART = 255  # bytes, beyond which no file system has a name
_LONGEST = 1024  # bytes, beyond which object stores have none


def is_file_name(name: str) -> bool:
    """Return whether a name is one of a file below a folder, written in the only way that artifacts write it."""
    parts = name.split("/")
    try:
        is_short = len(os.fsencode(name)) <= _LONGEST and all(len(os.fsencode(part)) <= _LONGEST_PART for part in parts)
    except UnicodeEncodeError:  # half of a pair of surrogates, which JSON can hold and no file system
        return False
    return is_short and "\0" not in name and not {"", ".", ".."} & set(parts)


def leads_out(name: str) -> bool:
    """Return whether a name, put after that of a folder, may be that of something outside, or of nothing at all."""
    return ".." in name.split("/") or "\0" in name
