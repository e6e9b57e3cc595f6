"""The one guard around parsers of others' making, JSON with bounds, and texts that can be written.

What strangers hand us is parsed by libraries that raise whatever they like: ValueError, OSError, AssertionError,
struct.error, RecursionError, MemoryError. ::

    with parsing(FailureCause.BAD_CAPTION_FILE, "a.json"):   # raises ItemFault: the item is counted, the stage goes on
        described = load_json(content)

    with parsing(lambda reason: InputFault(f"list.csv cannot be read ({reason}): mend it")):   # the whole file is lost
        table = read(file)

Put the parser's call alone under the guard, so that a fault of our own is not taken for one of the data.

A text is valid where UTF-8 can express it. One with half a surrogate pair would end the stage later, where a tar, a
parquet file or a tracking server is written; so JSON that holds one is refused at once (its item is counted), and
:func:`clean_text` replaces it where a text is of no consequence.
"""

import collections
import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from stages.contract.errors import FailureCause, ItemFault, StageError
from stages.contract.secrets import redact

MAX_JSON_BYTES = 16_000_000  # of one document beside an image or in a tar; a list gives its own limit
MAX_JSON_DEPTH = 64
_SHOWN = 160
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of an object in memory: another one in every run
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")  # escaped or as it is


class Unreadable(ValueError):
    """A file that cannot be read: what was found, and what to do next where it is not to mend the file."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


@contextlib.contextmanager
def parsing(fault: FailureCause | Callable[[str], StageError], name: str = "") -> Iterator[None]:
    """Raise what a parser raises as an ItemFault of the cause, or as the error made of the reason.

    Errors of the stage layer pass as they are; an interrupt is no error.
    """
    try:
        yield
    except StageError:
        raise
    except BaseException as error:
        if not _is_of_parser(error):
            raise
        reason = describe_parser_error(error)
        if not isinstance(fault, FailureCause):
            raise fault(reason) from error
        words = (next(iter(fault.messages), fault.value), shown(name), reason)
        raise ItemFault(fault, ": ".join(filter(None, words))) from None


def _is_of_parser(error: BaseException) -> bool:
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"  # which parsers in Rust raise


def describe_parser_error(error: BaseException) -> str:
    """Return in a few words what a parser raised, the same in every run."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MemoryError):
        return "more memory would be needed than there is"
    words = _ADDRESS.sub("", " ".join(str(error).split()))
    return shown(f"{type(error).__name__}: {words}" if words else type(error).__name__)


def shown(text: object, limit: int = _SHOWN) -> str:
    """Return a text from outside as a message may show it: on one line, without control characters, shortened."""
    words = "".join(one if one.isprintable() else _escape(one) for one in redact(str(text)[: 4 * limit]))
    return words if len(words) <= limit else f"{words[: limit - 1]}…"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def load_json(
    content: bytes | str,
    *,
    max_bytes: int = MAX_JSON_BYTES,
    max_depth: int = MAX_JSON_DEPTH,
    unique_keys: bool = False,
    any_text: bool = False,
) -> Any:
    """Return a JSON document of bounded size and depth, all of whose texts are valid; or raise ValueError.

    A byte order mark is no part of it; NaN and Infinity are read as Python writes them. ``unique_keys`` refuses an
    object that names a key twice; with ``any_text`` the caller looks after texts that are not valid.
    """
    if len(content) > max_bytes:
        raise ValueError(f"{len(content)} bytes of JSON: at most {max_bytes} are read")
    text = content if isinstance(content, str) else content.decode()
    try:
        value = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_unique if unique_keys else None)
    except RecursionError:
        raise ValueError(f"JSON is nested deeper than {max_depth}") from None
    _check_depth(value, max_depth)
    if not any_text and _SURROGATE.search(text) and not is_text(json.dumps(value, ensure_ascii=False)):
        raise ValueError("a text in the JSON holds half a surrogate pair")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        raise ValueError(f"a key is given twice: {shown(next(name for name in counts if counts[name] > 1))!r}")
    return found


def _check_depth(value: Any, max_depth: int) -> None:
    level = [value]
    for _ in range(max_depth + 1):
        level = [
            child
            for container in level
            if isinstance(container, dict | list)
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"JSON is nested deeper than {max_depth}")


def is_text(text: str) -> bool:
    """Return whether UTF-8 can express a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def clean_text(text: str) -> str:
    """Return a text that UTF-8 can express, with U+FFFD for each half of a surrogate pair."""
    return text if is_text(text) else text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
