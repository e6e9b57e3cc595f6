"""``python -m benchmarks`` runs every benchmark of the folder, one after another."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
MODULES = [path.stem for path in FOLDER.glob("[a-z]*.py")] + [path.parent.name for path in FOLDER.glob("*/__main__.py")]

for module in sorted(MODULES):
    subprocess.run([sys.executable, "-m", f"benchmarks.{module}"], check=True)
