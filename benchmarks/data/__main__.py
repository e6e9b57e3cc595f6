"""``python -m benchmarks.data [NAME…] [--pairs N] [--threads N]`` prints the tables of the data stages.

clip-retrieval wants other versions than ours: ``pip install clip-retrieval "setuptools<81"`` in an environment of its
own, whose Python ``--clip-retrieval`` names.
"""

import argparse
import importlib
import pkgutil
from types import ModuleType

from rich.console import Console

import benchmarks.data
from benchmarks.data.options import Options


def benchmark_modules() -> dict[str, ModuleType]:
    """Return the modules of the package that measure something, by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(benchmarks.data.__path__) if info.name != "__main__")
    modules = {name: importlib.import_module(f"benchmarks.data.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "tables")}


def main() -> None:
    """Print the tables of all modules, or of those named."""
    modules = benchmark_modules()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(modules)}; none: all")
    parser.add_argument("--small", action="store_true", help="sizes for a first look")
    parser.add_argument("--pairs", type=int, default=Options.pairs, help="runs of each side, in turn")
    parser.add_argument("--threads", type=int, default=Options.threads, help="threads of each side")
    parser.add_argument(
        "--clip-retrieval", default="", metavar="PYTHON", help="compare embed with clip-retrieval there"
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in modules]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}: choose from {', '.join(modules)}")
    console = Console()
    options = Options(arguments.small, arguments.pairs, arguments.threads, arguments.clip_retrieval)
    for name in arguments.names or modules:
        for table in modules[name].tables(options):
            console.print(table)


if __name__ == "__main__":
    main()
