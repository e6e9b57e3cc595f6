"""Read YAML within bounds: of bytes, depth, and values, where an alias counts as all that it stands for."""

import re
import stat
from pathlib import Path
from typing import Any, Final

import yaml

from pipeline.errors import UsageError
from stages.contract.secrets import is_secret_name
from stages.contract.texts import one_line, show_value

LARGEST_FILE: Final = 1 << 20  # bytes
LARGEST_OVERRIDE: Final = 1 << 16  # characters
DEEPEST: Final = 32
MOST_VALUES: Final = 100_000
_TAG: Final = "tag:yaml.org,2002:"
_MERGE, _INT, _FLOAT = f"{_TAG}merge", f"{_TAG}int", f"{_TAG}float"
_NO_DATA: Final = frozenset(f"{_TAG}{kind}" for kind in ("set", "binary", "omap", "pairs"))  # JSON has none of them
_KINDS: Final = {f"{_TAG}timestamp": " as a date", _INT: " as an integer", _FLOAT: " as a number"}
_OCTAL: Final = re.compile(r"[-+]?0[0-7_]+")
_LONGEST_NUMBER: Final = 20  # characters that a message shows


class _MisreadNumber(yaml.constructor.ConstructorError):
    """A number of YAML 1.1, whose rules hold here, that is another one, or a text, in YAML 1.2 and to people."""


class _BoundedLoader(yaml.SafeLoader):
    """Plain data only; refuses what is too deep or too large, keys given twice, and numbers that may be misread."""

    def __init__(self, text: str, key: str) -> None:
        super().__init__(text)
        self._depth, self._key = 0, key
        self._bare = text.strip() if key else ""  # a value that the shell takes the quotes of
        self._checked: set[int] = set()

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"nested deeper than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _measure(node, {})
            self._check(node, self._key)  # now, as a merge is written into its mapping wherever that is constructed
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # noqa: BLE001  dates, numbers and tags raise whatever their conversion does
            kind = _KINDS.get(node.tag, "")
            raise _fault(f"a value cannot be read{kind} ({type(error).__name__})", node) from None

    def _check(self, node: Any, key: str) -> None:
        """Check a node and all below, each once; ``key`` is the dotted key at which it stands first."""
        if id(node) in self._checked:
            return
        self._checked.add(id(node))
        if node.tag in _NO_DATA:
            raise _fault(f"found !!{node.tag.removeprefix(_TAG)}; write a text, a list or a mapping", node)
        if isinstance(node, yaml.ScalarNode):
            self._require_plain_number(node, key)
        elif isinstance(node, yaml.MappingNode):
            self._require_different_keys(node, key)
            for key_node, value_node in node.value:
                self._check(value_node, key if key_node.tag == _MERGE else f"{key}.{key_node.value}".lstrip("."))
        else:
            for item in node.value:
                self._check(item, key)

    def _require_different_keys(self, node: Any, above: str) -> None:
        merges = [key_node for key_node, _ in node.value if key_node.tag == _MERGE]
        if len(merges) > 1:
            raise _fault("the key << is given twice; merge a list: `<<: [*one, *other]`", merges[1])
        seen = set()
        for key_node in (key_node for key_node, _ in node.value if key_node.tag != _MERGE):
            if not isinstance(key_node, yaml.ScalarNode):
                kind = "list" if isinstance(key_node, yaml.SequenceNode) else "mapping"
                raise _fault(f"found a {kind} as a key; expected a text", key_node)
            self._check(key_node, above)
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise _fault(f"the key {show_value(key, 40)} is given twice", key_node)
            seen.add(key)

    def _require_plain_number(self, node: Any, key: str) -> None:
        """Refuse 010, an octal number, and 1:30, one of base 60."""
        text = node.value
        is_octal = node.tag == _INT and _OCTAL.fullmatch(text) is not None
        if not is_octal and not (node.tag in (_INT, _FLOAT) and ":" in text):
            return
        if len(text) > _LONGEST_NUMBER or key.startswith("storage.") or is_secret_name(key):  # not to be shown
            form = "a number that begins with 0" if is_octal else "a number of base 60"
            raise _MisreadNumber(
                None, None, f"found {form}; write it in base 10, or in quotes if it is a text", node.start_mark
            )
        value = self.construct_object(node)
        values = dict.fromkeys((value, int(text.replace("_", "")) if is_octal else value))
        why = "octal" if is_octal else "of base 60"
        quoted = f"'\"{text}\"'" if text == self._bare else f'"{text}"'
        words = f"found {text}, which YAML reads as {value} ({why}); write {' or '.join(map(str, values))}"
        raise _MisreadNumber(None, None, f"{words}, or {quoted} with its quotes if it is a text", node.start_mark)


def _fault(words: str, node: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, words, node.start_mark)


def _measure(node: Any, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return how many values a node stands for, and how deep they lie; one inside itself is refused."""
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise yaml.YAMLError("an alias stands for a value that holds it")
        return found
    known[id(node)] = None
    parts = () if isinstance(node, yaml.ScalarNode) else node.value
    inner = [_measure(one, known) for part in parts for one in (part if isinstance(part, tuple) else (part,))]
    total, depth = 1 + sum(count for count, _ in inner), 1 + max((depth for _, depth in inner), default=0)
    if depth > DEEPEST:
        raise yaml.YAMLError(f"nested deeper than {DEEPEST} levels")
    if total > MOST_VALUES:
        raise yaml.YAMLError(f"more than {MOST_VALUES:,} values, counting what aliases repeat")
    known[id(node)] = total, depth
    return total, depth


def parse_yaml(text: str, where: str, *, key: str = "") -> Any:
    """Return the value of one YAML document; an error names the line, and shows nothing of the text around it.

    ``key`` is the dotted key that the value is for, where it comes from the command line.
    """
    try:
        return _BoundedLoader(text, key).get_single_data()
    except _MisreadNumber as error:
        raise UsageError(f"{where}: {_position(error)}{one_line(error.problem, 200)}") from None
    except yaml.MarkedYAMLError as error:
        found = f"{_position(error)}{error.problem or error.context or 'it cannot be read'}"
    except yaml.YAMLError as error:
        found = str(error)
    except Exception as error:  # noqa: BLE001  whatever its reader may raise
        found = f"a value cannot be read ({type(error).__name__})"
    raise UsageError(f"{where}: is not valid YAML: {one_line(found, 200)}; correct it there")


def _position(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping with text as keys."""
    tree = parse_yaml(_text_of(path), one_line(path))
    if not isinstance(tree, dict):
        raise UsageError(
            f"{one_line(path)}: found {type(tree).__name__}; expected a mapping of sections such as `download_shards:`"
        )
    if wrong := [key for key in tree if not isinstance(key, str)]:
        raise UsageError(
            f"{one_line(path)}: found the key {show_value(wrong[0])}; expected sections such as `download_shards:`"
        )
    return tree


def _text_of(path: Path) -> str:
    where = one_line(path)
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{where}: is no file; give the path of a YAML config")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise UsageError(f"{where}: is larger than {LARGEST_FILE:,} bytes; give the path of a YAML config")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(
            f"{where}: no such file; give the path of a YAML config, such as configs/quickstart.yaml"
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: is not UTF-8 (byte {error.start}); give the path of a YAML config") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise UsageError(f"{where}: cannot be read: {one_line(error, 200)}; give the path of a YAML config") from None
