"""Packages of icons, and what an icon is made of."""

import tempfile
from pathlib import Path

from tests.fuzz.mutations import Mutation, mutate_bytes
from tests.fuzz.structures import mutate_files, mutate_json, pack_files, unpack_files
from tests.fuzz.target import Run, Target
from tests.fuzz.targets.lists import configure, read_source, write_tree
from tests.icon_packages import write_packages


def _packages() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        root = write_packages(Path(folder), 3)
        files = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    return [pack_files(files)]


def _prepare_packages() -> Run:
    import resvg_py  # noqa: F401  imported before memory is limited

    from stages.download_shards.sources import registry  # noqa: F401

    def run(data: bytes, folder: Path) -> object:
        write_tree(folder / "in", unpack_files(data))
        source = {"path": str(folder / "in"), "captions": "names_and_keywords", "resolution": 8}
        return read_source(configure(kind="drawings", **source))

    return run


def _bodies() -> list[bytes]:
    shapes = (
        '<path fill="#d00" d="M2 2h20v20z"/>',
        '<g id="a"><circle cx="9" cy="9" r="5"/></g><use href="#a" x="3"/>',
        '<defs><linearGradient id="p"><stop offset=".5" stop-color="#0f0"/></linearGradient>'
        '<filter id="f"><feGaussianBlur stdDeviation="2"/></filter></defs>'
        '<rect width="36" height="36" fill="url(#p)" filter="url(#f)"/>',
    )
    names = 'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 36 36"'
    return [f"<svg {names}>{shape}</svg>".encode() for shape in shapes]


def _prepare_svg() -> Run:
    from stages.download_shards.drawings.svg import render_svg

    def run(data: bytes, folder: Path) -> object:
        return render_svg(data.decode(errors="replace"), 16)

    return run


def _of_file(name: str) -> Mutation:
    return mutate_json if name.endswith(".json") else mutate_bytes


TARGETS = (
    Target("drawings", _packages, _prepare_packages, (mutate_files(_of_file, names=True),)),
    Target("svg", _bodies, _prepare_svg, (mutate_bytes,)),
)
