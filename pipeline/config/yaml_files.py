"""Read YAML within bounds: of bytes, depth, and values, where an alias counts as all that it stands for."""

import stat
from pathlib import Path
from typing import Any, Final

import yaml

from pipeline.errors import UsageError
from stages.contract.texts import one_line, show_value

LARGEST_FILE: Final = 1 << 20  # bytes
LARGEST_OVERRIDE: Final = 1 << 16  # characters
DEEPEST: Final = 32
MOST_VALUES: Final = 100_000
_MERGE: Final = "tag:yaml.org,2002:merge"


class _BoundedLoader(yaml.SafeLoader):
    """Plain data only; refuses what is too deep or too large, and a key that is given twice."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

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
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {show_value(key, 40)} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


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


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of one YAML document; an error names the line, and shows nothing of the text around it."""
    try:
        return _BoundedLoader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        found = f"{position}{error.problem or error.context or 'it cannot be read'}"
    except yaml.YAMLError as error:
        found = str(error)
    except Exception as error:  # noqa: BLE001  dates, numbers and tags raise whatever their conversion does
        found = f"a value cannot be read ({type(error).__name__})"
    raise UsageError(f"{where}: is not valid YAML: {one_line(found, 200)}; correct it there")


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
