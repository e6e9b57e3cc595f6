"""The key of a sample: a hash of what it is called where it comes from, never of where it stands in a list.

What a sample is called is its address, its path in a folder, or its key in a webdataset; a source without names (rows
that hold the bytes of images) gives the hash of the content. So adding or removing other samples, a new order, or other
shards leave every key as it was, and with it every choice that is made by key. The name is known before anything is
read, also of what is lost, and stays when an image is edited or its captions are; who renames a file makes another
sample of it. Of two samples of one name the second in a shard has the key of the first and ``+1``: choices by key hash
what stands before the ``+``, so that both fall on the same side of each.
"""

import collections
import hashlib
import re
import unicodedata
from collections.abc import Iterable

KEY_DIGITS = 20  # hexadecimal; among a billion samples two that collide are expected with a chance of one in 10^6
_REPEATED = re.compile(rf"([0-9a-f]{{{KEY_DIGITS}}})\+[0-9]+")
_MANTISSA_BITS = 53


def sample_keys(names: Iterable[str]) -> list[str]:
    """Return the keys of a shard's samples, of which no two are equal; Unicode forms (NFC, NFD) do not matter."""
    forms = (unicodedata.normalize("NFC", name).encode("utf-8", "surrogatepass") for name in names)
    return renumbered(hashlib.sha256(form).hexdigest()[:KEY_DIGITS] for form in forms)


def renumbered(keys: Iterable[str]) -> list[str]:
    """Return the keys of samples of several shards as they are in one shard, where no two are equal."""
    found: collections.Counter[str] = collections.Counter()
    made = []
    for key in map(unnumbered, keys):
        made.append(f"{key}+{found[key]}" if found[key] else key)
        found[key] += 1
    return made


def unnumbered(key: str) -> str:
    """Return what all samples of one name have in common: the key before the ``+``; keys of others as they are."""
    repeated = _REPEATED.fullmatch(key)
    return repeated[1] if repeated else key


def uniform_number(key: str, seed: int) -> float:
    """Return u(key), the top 53 bits of SHA-256("<seed>:<key>") as a number in [0, 1)."""
    text = f"{seed}:{unnumbered(key)}"
    bits = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - _MANTISSA_BITS)
    return bits * 2.0**-_MANTISSA_BITS
