"""Why an entry of the list gave no image: img2dataset's messages sorted into a few causes."""

import re

_HTTP_ERROR = re.compile(r"HTTP Error (\d{3})")

# (words in img2dataset's or Python's message, cause); the first match counts
_CAUSES: tuple[tuple[str, str], ...] = (
    ("timed out", "timeout"),
    ("Name or service not known", "unknown_host"),
    ("No address associated", "unknown_host"),
    ("Temporary failure in name resolution", "unknown_host"),
    ("nodename nor servname", "unknown_host"),
    ("Connection refused", "connection_refused"),
    ("CERTIFICATE_VERIFY_FAILED", "bad_certificate"),
    ("unknown url type", "invalid_url"),
    ("no host given", "invalid_url"),
    ("URL can't contain", "invalid_url"),
    ("'NoneType' object", "invalid_url"),  # a null in the list
    ("X-Robots-Tag", "disallowed"),
    ("IncompleteRead", "connection_lost"),
    ("Connection reset", "connection_lost"),
    ("Remote end closed", "connection_lost"),
    ("image too small", "image_too_small"),
    ("image area too large", "image_too_large"),
    ("aspect ratio too large", "aspect_ratio"),
    ("lost by img2dataset", "lost"),
)


def cause_of(status: str, message: str) -> str:
    """Name the cause of a failed entry, from img2dataset's status and error message."""
    http = _HTTP_ERROR.search(message)
    if http:
        return f"http_{http.group(1)}"
    for words, cause in _CAUSES:
        if words in message:
            return cause
    return "corrupt_image" if status == "failed_to_resize" else "other"
