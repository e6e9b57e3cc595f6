"""The packages that hold the drawings and the captions: pinned versions, and whose work they are; no torch."""

from dataclasses import dataclass
from typing import Literal

SetName = Literal["twemoji", "noto", "openmoji", "fluent-emoji-flat"]
SETS: tuple[SetName, ...] = ("twemoji", "noto", "openmoji", "fluent-emoji-flat")


@dataclass(frozen=True)
class Package:
    """A package of the npm registry, by name, version and content."""

    name: str
    version: str
    integrity: str
    """The SHA-512 of its archive in base64, as npm writes it."""
    spdx: str
    """Its licence, as its package.json must say it."""
    work: str
    author: str
    license: str
    """As it is shown."""
    license_url: str


def _package(name: str, version: str, integrity: str, spdx: str, work: tuple[str, str, str, str]) -> Package:
    return Package(name, version, integrity, spdx, *work)


DRAWINGS: dict[SetName, Package] = {
    "twemoji": _package(
        "@iconify-json/twemoji",
        "1.2.5",
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "CC-BY-4.0",
        ("Twemoji", "Twitter, Inc and other contributors", "CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/"),
    ),
    "noto": _package(
        "@iconify-json/noto",
        "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0",
        ("Noto Emoji", "Google Inc", "Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
    ),
    "openmoji": _package(
        "@iconify-json/openmoji",
        "1.2.29",
        "vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
        "CC-BY-SA-4.0",
        ("OpenMoji", "the OpenMoji project", "CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0/"),
    ),
    "fluent-emoji-flat": _package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT",
        ("Fluent Emoji Flat", "Microsoft Corporation", "MIT", "https://opensource.org/license/mit"),
    ),
}

KEYWORDS = _package(
    "cldr-annotations-full",
    "48.2.0",
    "DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
    "Unicode-3.0",
    ("CLDR annotations", "Unicode, Inc.", "Unicode-3.0", "https://www.unicode.org/license.txt"),
)
"""English names and keywords by character."""
