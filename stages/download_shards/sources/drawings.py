"""Drawings of the same concepts by several artists, with their names as captions."""

import contextlib
import functools
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from stages.contract.errors import InputFault, ItemFault
from stages.contract.installing import install_words
from stages.download_shards.config import DownloadShardsConfig, DrawingsSource
from stages.download_shards.drawings.icons import Icon, read_annotations, read_drawings
from stages.download_shards.drawings.npm import check_package, read_license, read_package_file
from stages.download_shards.drawings.package_config import DRAWINGS, KEYWORDS, SETS, Package, SetName
from stages.download_shards.drawings.svg import render_svg
from stages.download_shards.row_digests import growth_of
from stages.download_shards.sources.base import Entries, Entry, Parts
from stages.download_shards.sources.rows import RowPart, cut
from stages.formats.attributions import Attribution, Attributions
from stages.formats.captions import CaptionsConfig, select_captioned
from stages.formats.source_records import SourceRecord

_SVG = "__svg__"
_ANNOTATIONS = "annotations/en/annotations.json"


class Drawings:
    """The driver reads the packages; a worker renders its part of the drawings."""

    def __init__(self, source: DrawingsSource, config: DownloadShardsConfig) -> None:
        self._source, self._config = source, config

    def check(self) -> None:
        """Check that the packages are here or can be fetched, and that the renderer is installed."""
        if importlib.util.find_spec("resvg_py") is None:
            raise InputFault(
                "download_shards.source: drawings are rendered by the package resvg_py, which is not installed: "
                f"{install_words('drawings')}"
            )
        for package in self._source.packages:
            check_package(package, self._source.path)

    @contextlib.contextmanager
    def parts(self) -> Iterator[Parts]:
        """Yield the drawings of each shard, artist by artist in the order of the concepts."""
        source = self._source
        rows = [row for name in source.sets for row in _rows(source, name)]
        if not rows:
            raise InputFault("download_shards.source: no drawing is left: name other sets, concepts or held_out")
        changes = f"rendered at {source.resolution} x {source.resolution} pixels on white"
        works = [_attribution(package, changes) for package in source.set_packages]
        works += [_attribution(package) for package in source.packages[len(works) :]]
        table, step = pa.Table.from_pylist(rows, _schema(source)), self._config.rows_per_shard
        growth = growth_of(table, step)
        yield Parts(cut(table, step), SourceRecord(found=len(rows)), Attributions(works=tuple(works)), growth)

    def read(self, part: RowPart) -> Entries:
        """Render the drawings one after another."""
        rows = part.rows()
        entries = _render(rows, self._source.resolution)
        return Entries(rows.schema.remove(rows.schema.get_field_index(_SVG)), entries, lambda: rows.num_rows)


def _attribution(package: Package, changes: str = "") -> Attribution:
    return Attribution(
        work=package.work,
        author=package.author,
        license=package.license,
        license_url=package.license_url,
        source=f"npm package {package.name} {package.version}",
        changes=changes,
    )


def _render(rows: pa.Table, resolution: int) -> Iterator[Entry]:
    for index, row in enumerate(rows.to_pylist()):
        svg = row.pop(_SVG)
        try:
            yield Entry(index, row, render_svg(svg, resolution))
        except ItemFault as fault:
            yield Entry(index, row, fault)


def _schema(source: DrawingsSource) -> pa.Schema:
    texts = ["caption"] if source.captions != "none" else []
    fields = [(name, pa.string()) for name in texts]
    if source.captions == "names_and_keywords":
        fields.append(("captions", pa.list_(pa.string())))
    return pa.schema([*fields, *((name, pa.string()) for name in ("url", "artist", "concept", "license", _SVG))])


def _rows(source: DrawingsSource, name: SetName) -> list[dict[str, object]]:
    icons, license = chosen_drawings(source, name), DRAWINGS[name].license
    further = _further_captions(source)
    return [
        {
            "caption": icon.name,
            "captions": list(dict.fromkeys([icon.name, *further.get(icon.concept, ())])),
            "url": f"{name}/{icon.concept}",
            "artist": name,
            "concept": icon.concept,
            "license": license,
            _SVG: icon.svg,
        }
        for icon in icons
    ]


def chosen_drawings(source: DrawingsSource, name: SetName) -> list[Icon]:
    """Return an artist's drawings of the chosen concepts, in their order."""
    found = read_set(source, name)
    concepts = [icon.concept for icon in found]
    if source.only_common:
        shared = set.intersection(*({one.concept for one in read_set(source, artist)} for artist in SETS))
        found = [icon for icon in found if icon.concept in shared]
        concepts = [icon.concept for icon in found]
    if source.concepts == "all":
        return found
    held_out = select_captioned(concepts, CaptionsConfig(fraction=source.held_out, seed=source.seed))
    wanted = held_out if source.concepts == "held_out" else ~held_out
    return [icon for icon, is_wanted in zip(found, wanted, strict=True) if is_wanted]


def read_set(source: DrawingsSource, name: SetName) -> list[Icon]:
    """Return all drawings of an artist."""
    return _read_set(name, source.path)


@functools.lru_cache(maxsize=len(SETS))
def _read_set(name: SetName, folder: Path | None) -> list[Icon]:
    package = DRAWINGS[name]
    read_license(package, folder)
    icons, characters = (read_package_file(package, file, folder) for file in ("icons.json", "chars.json"))
    return read_drawings(icons, characters, package.name)


def _further_captions(source: DrawingsSource) -> Mapping[str, tuple[str, ...]]:
    if source.captions != "names_and_keywords":
        return {}
    read_license(KEYWORDS, source.path)
    return read_annotations(read_package_file(KEYWORDS, _ANNOTATIONS, source.path), KEYWORDS.name)
