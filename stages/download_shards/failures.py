"""Why an entry of the list gave no image: messages sorted into a few causes."""

import re

_HTTP_ERROR = re.compile(r"HTTP Error (\d{3})")

# (words in the message, cause); the first match counts
_CAUSES: tuple[tuple[str, str], ...] = (
    ("timed out", "timeout"),
    ("Name or service not known", "unknown_host"),
    ("Connection refused", "connection_refused"),
    ("CERTIFICATE_VERIFY_FAILED", "bad_certificate"),
    ("unknown url type", "invalid_url"),
    ("no host given", "invalid_url"),
    ("X-Robots-Tag", "disallowed"),
    ("no such file", "missing_file"),
    ("cannot be read", "unreadable_file"),
    ("outside the folder", "outside_folder"),
    ("tar is damaged", "damaged_tar"),
    ("caption file is damaged", "bad_caption_file"),
    ("image too small", "image_too_small"),
    ("image area too large", "image_too_large"),
    ("aspect ratio too large", "aspect_ratio"),
    ("file is truncated", "truncated_image"),
    ("duplicate address", "duplicate_url"),
    ("duplicate content", "duplicate_content"),
    ("private address", "private_address"),
    ("too many redirects", "too_many_redirects"),
    ("content encoding", "content_encoding"),
    ("file too large", "file_too_large"),
    ("connection lost", "connection_lost"),
    ("connection closed", "connection_lost"),
    ("invalid address", "invalid_url"),
    ("stalled", "stalled"),
)


def cause_of(status: str, message: str) -> str:
    """Name the cause of a failed entry, from its status and error message."""
    http = _HTTP_ERROR.search(message)
    if http:
        return f"http_{http.group(1)}"
    for words, cause in _CAUSES:
        if words in message:
            return cause
    return "corrupt_image" if status == "failed_to_resize" else "other"
