"""``python -m pipeline`` is ``corgi``."""

from pipeline.cli import main

main()
