"""What to do about the commonest causes by which entries are lost: for the message of too low a yield."""

from collections.abc import Mapping
from typing import Final

from stages.contract.errors import FailureCause

_REMEDIES: Final[dict[FailureCause, str]] = {
    FailureCause.PRIVATE_ADDRESS: "name the networks that you trust in download_shards.allowed_networks",
    FailureCause.UNKNOWN_HOST: "look at the addresses' hosts, and whether this machine can look names up",
    FailureCause.CONNECTION_REFUSED: "look whether the hosts serve at these ports",
    FailureCause.TIMEOUT: "look at the network, or raise download_shards.timeout",
    FailureCause.BAD_CERTIFICATE: "look at the hosts' certificates and at this machine's clock",
    FailureCause.INVALID_URL: "look at the column of addresses",
    FailureCause.FILE_TOO_LARGE: "raise download_shards.max_bytes",
    FailureCause.IMAGE_TOO_LARGE: "raise download_shards.max_pixels",
    FailureCause.IMAGE_TOO_SMALL: "lower download_shards.min_image_size",
    FailureCause.DISALLOWED: "their owners allow no such use: take other images",
    FailureCause.MISSING_FILE: "look at the paths, which count from the list's or folder's place",
    FailureCause.HIDDEN_FILE: "rename files and folders that begin with a dot: what is hidden is not read",
    FailureCause.OUTSIDE_FOLDER: "bring the files into the folder: what lies outside is not read",
    FailureCause.DOTTED_NAME: "rename the files in the tars (holiday.0000.jpg to holiday_0000.jpg): "
    "a sample's name ends at its first dot",
    FailureCause.UNSUPPORTED_FORMAT: "convert the files to JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF",
}


def remedy_of(causes: Mapping[str, int]) -> str:
    """Return what to do about the most frequent cause of losses, by its label; without one of its own, in general."""
    worst = max(causes, key=lambda label: causes[label], default="")
    for cause, remedy in _REMEDIES.items():
        if worst == cause.value:
            return f"{remedy}, and run again"
    return "correct the list or the network, and run again"
