"""Errors that a stage raises on purpose; the message is what the user reads.

StageError
├── InputFault      the data or files given to the stage cannot be used
├── YieldTooLow     the stage produced less than its configured minimum
├── Unaccounted     entries of a source are neither images nor counted: a fault of the stage itself
├── Diverged        training went wrong: a gradient is not finite, or jumped
├── EndRequested    the stage was asked to end before it was done
├── InputLost       an upstream stage, whose units this one streams, has failed
├── LeaseLost       another driver has taken over what this one was making
├── ArtifactError   an artifact is missing, unfinished, or does not match
│   └── DamagedFile a file of an artifact is not what was written
└── ItemFault       one item is lost, for a cause that is counted, and the stage goes on with the others
"""

import difflib
from collections.abc import Iterable
from enum import StrEnum

from stages.contract.secrets import redact


class StageError(Exception):
    """Root of the stage layer.

    A message reads: where (stage and key or path): what was found: what is allowed: what to do next. Secrets in it, as
    libraries quote them in theirs, are masked.
    """

    is_on_purpose = True
    """For layers that do not know this class: its message says all, and no other cause is looked for."""

    def __init__(self, *content: object) -> None:
        super().__init__(*(redact(part) if type(part) is str else part for part in content))


class InputFault(StageError):
    """The data or files given to the stage cannot be used."""


class YieldTooLow(StageError):
    """The stage produced less than its configured minimum."""


class Unaccounted(StageError):
    """Entries of a source are neither images nor counted failures nor counted skips."""


class Diverged(StageError):
    """Training went wrong: a gradient is not finite, or jumped."""


class EndRequested(StageError):
    """The stage was asked to end before it was done; what it has done is kept."""


class InputLost(StageError):
    """An upstream stage, whose units this one streams, has failed."""


class LeaseLost(StageError):
    """Another driver has taken over what this one was making."""


class ArtifactError(StageError):
    """An artifact is missing, unfinished, or does not match what reads it."""


class DamagedFile(ArtifactError):
    """A file of an artifact is not what was written; ``stage`` and ``unit`` say what is to be made again."""

    stage = ""
    fingerprint = ""
    name = ""
    unit: str | None = None  # none: it belongs to no unit


class FailureCause(StrEnum):
    """The name of a cause in records, reports and on the dashboard.

    ``messages`` are what a shard's table says of it, the usual one first; a detail may follow after a colon.
    """

    messages: tuple[str, ...]

    def __new__(cls, name: str, *messages: str) -> "FailureCause":
        """Make a member of its name and messages."""
        member = str.__new__(cls, name)
        member._value_, member.messages = name, messages
        return member

    # network
    HTTP = "http", "HTTP Error"  # counted with the status: http_404
    TIMEOUT = "timeout", "timed out"
    UNKNOWN_HOST = "unknown_host", "Name or service not known"
    CONNECTION_REFUSED = "connection_refused", "Connection refused"
    CONNECTION_LOST = "connection_lost", "connection lost", "connection closed before the end of the file"
    BAD_CERTIFICATE = "bad_certificate", "CERTIFICATE_VERIFY_FAILED"
    STALLED = "stalled", "stalled"
    # address, and limits of the download
    INVALID_URL = "invalid_url", "invalid address", "unknown url type", "no host given"
    PRIVATE_ADDRESS = "private_address", "private address refused"
    TOO_MANY_REDIRECTS = "too_many_redirects", "too many redirects"
    CONTENT_ENCODING = "content_encoding", "content encoding refused"
    FILE_TOO_LARGE = "file_too_large", "file too large"
    DISALLOWED = "disallowed", "Use of image disallowed by X-Robots-Tag directive"
    # files
    MISSING_FILE = "missing_file", "no such file"
    UNREADABLE_FILE = "unreadable_file", "cannot be read"
    OUTSIDE_FOLDER = "outside_folder", "the file lies outside the folder"
    DAMAGED_TAR = "damaged_tar", "tar is damaged from here on"
    BAD_CAPTION_FILE = "bad_caption_file", "caption file is damaged"
    BAD_NAME = "bad_name", "the name is no valid text"
    NOT_A_FILE = "not_a_file", "no regular file"  # FIFO, socket, device
    REPEATED_MEMBER = "repeated_member", "the sample has it already"
    DOTTED_NAME = "dotted_name", "the name has several dots"  # of one of several images of a sample, none of them plain
    BAD_ROW = "bad_row", "the row is damaged"
    UNMATCHED_ROW = "unmatched_row", "the row names no single file"
    # of a source, and not to be images
    HIDDEN_FILE = "hidden_file"
    NO_IMAGE_FILE = "no_image_file"
    LINKED_FOLDER = "linked_folder"
    CAPTION_WITHOUT_IMAGE = "caption_without_image"
    # images
    NO_IMAGE = "no_image"
    CORRUPT_IMAGE = "corrupt_image", "Image decoding error"
    TRUNCATED_IMAGE = "truncated_image", "image file is truncated"
    IMAGE_TOO_SMALL = "image_too_small", "image too small"
    IMAGE_TOO_LARGE = "image_too_large", "image area too large"
    UNSUPPORTED_FORMAT = "unsupported_format", "unsupported image format"
    DECODER_LIMIT = "decoder_limit", "limit of the decoder exceeded"
    # embeddings
    NO_EMBEDDING = "no_embedding"
    AMBIGUOUS_KEY = "ambiguous_key"  # of existing embeddings, where a key is several rows' or several images'
    NOT_FINITE = "not_finite"
    # left out on request
    DUPLICATE_URL = "duplicate_url", "duplicate address"
    DUPLICATE_CONTENT = "duplicate_content", "duplicate content"
    LOW_CLIP_SCORE = "low_clip_score"
    NEAR_DUPLICATE = "near_duplicate"

    OTHER = "other", "network error", "no content"


class ItemFault(StageError):
    """One item is lost, and the stage goes on with the others; without a message, it is the cause's usual one."""

    def __init__(self, cause: FailureCause, message: str = "", *, http_status: int | None = None) -> None:
        super().__init__(cause, message or next(iter(cause.messages), cause.value))
        self.cause, self.http_status = cause, http_status

    def __str__(self) -> str:
        """Return the message."""
        return str(self.args[1])

    @property
    def detail(self) -> str:
        """The message without the usual one of its cause."""
        usual = next(iter(self.cause.messages), self.cause.value)
        return str(self).removeprefix(usual).removeprefix(": ")

    @property
    def label(self) -> str:
        """The name under which the loss is counted: the cause's, with the status of an HTTP answer (http_404)."""
        return self.cause.value if self.http_status is None else f"{self.cause}_{self.http_status}"


class ImageFault(InputFault, ItemFault):
    """The bytes of an image cannot be used."""


_LONGEST_NAME = 100


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ' (nearest: ...)' with the choices that look most like the word, for a message; or nothing."""
    lowered = {choice.lower(): choice for choice in choices if choice.isprintable() and len(choice) < _LONGEST_NAME}
    near = difflib.get_close_matches(word.lower(), list(lowered), n=3, cutoff=0.5)
    return f" (nearest: {', '.join(lowered[name] for name in near)})" if near else ""
