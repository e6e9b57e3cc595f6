"""``python -m pipeline`` is the ``corgi`` command."""

import sys

try:
    from pipeline.cli import main
except ModuleNotFoundError as error:
    # A Python without the packages: a node's `ray` was started outside the virtual environment, and jobs run in that.
    sys.exit(
        f"corgi: {sys.executable} has no package {error.name!r}: expected the Python that Corgi Pipeline is installed "
        "in: start `ray` on every node from its virtual environment (.venv/bin/ray start), or install it there too"
    )

main()
