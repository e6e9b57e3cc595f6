"""What icon sets and annotations hold: drawings by concept, and captions.

A concept is a sequence of Unicode code points (``1f642-200d-2195``), the variation selector U+FE0F left out. Artists'
drawings are matched by it, for names differ. Left out are drawings without code points, which a set keeps only for
users of their old names and most of which repeat another drawing, and variants of skin tone (a concept with one of the
modifiers U+1F3FB to U+1F3FF).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from stages.contract.documents import describe_faults
from stages.contract.errors import InputFault
from stages.contract.parsing import is_text, parsing

_TONES = frozenset(f"{code:x}" for code in range(0x1F3FB, 0x1F400))
_VARIATION_SELECTOR = "\ufe0f"
_LONGEST_NAME = 200

T = TypeVar("T")


class _Icon(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    body: str
    left: float = 0
    top: float = 0
    width: float | None = Field(None, gt=0)
    height: float | None = Field(None, gt=0)
    hidden: bool = False


class _IconSet(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    icons: dict[str, _Icon]
    left: float = 0
    top: float = 0
    width: float = Field(16, gt=0)
    height: float = Field(16, gt=0)


class _Texts(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    default: tuple[str, ...] = ()
    tts: tuple[str, ...] = ()


class _Annotations(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    annotations: dict[str, _Texts]


class _AnnotationsFile(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    annotations: _Annotations


@dataclass(frozen=True)
class Icon:
    """One artist's drawing of a concept."""

    concept: str
    name: str
    """Its caption: 'thumbs up'."""
    svg: str


def read_drawings(icons: bytes, characters: bytes, where: str) -> list[Icon]:
    """Return the drawings of icons.json and chars.json in the order of their concepts, without variants of skin tone.

    Raises:
        InputFault: a file is not what such a set has.
    """
    icon_set = _parse(_IconSet, icons, f"{where}/icons.json")
    names = _parse(dict[str, str], characters, f"{where}/chars.json")
    found = []
    for concept, name in sorted(names.items()):
        icon = icon_set.icons.get(name)
        caption = name.replace("-", " ").strip()
        is_variant = bool(_TONES & set(concept.split("-")))
        if icon is None or icon.hidden or is_variant or not caption or len(caption) > _LONGEST_NAME:
            continue
        found.append(Icon(concept, caption, _svg(icon, icon_set)))
    return _once(found)


def _once(icons: list[Icon]) -> list[Icon]:
    """Keep of a drawing that several code points name the first."""
    by_name: dict[str, Icon] = {}
    for icon in icons:
        by_name.setdefault(icon.name, icon)
    return list(by_name.values())


def read_annotations(content: bytes, where: str) -> Mapping[str, tuple[str, ...]]:
    """Return the further captions of each concept: its name, then its keywords."""
    annotations = _parse(_AnnotationsFile, content, where).annotations.annotations
    found: dict[str, tuple[str, ...]] = {}
    for character, texts in annotations.items():
        found[concept_of(character)] = tuple(
            text for text in (*texts.tts, *texts.default) if is_text(text) and text.strip()
        )
    return found


def concept_of(character: str) -> str:
    """Return the concept of an emoji: its code points in hexadecimal."""
    return "-".join(f"{ord(letter):x}" for letter in character if letter != _VARIATION_SELECTOR)


def _svg(icon: _Icon, icon_set: _IconSet) -> str:
    """Return the icon in the middle of a square, for some are wider or higher than that."""
    left, top = icon.left or icon_set.left, icon.top or icon_set.top
    width, height = icon.width or icon_set.width, icon.height or icon_set.height
    side = max(width, height)
    left, top = left - (side - width) / 2, top - (side - height) / 2
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left:g} {top:g} {side:g} {side:g}">{icon.body}</svg>'
    )


def _parse(kind: type[T], content: bytes, where: str) -> T:
    def fault(reason: str) -> InputFault:
        return InputFault(f"download_shards.source: {where}: {reason}: give the package as its registry has it")

    with parsing(fault):
        try:
            return TypeAdapter(kind).validate_json(content)
        except ValidationError as error:
            raise fault(describe_faults(error)) from error
