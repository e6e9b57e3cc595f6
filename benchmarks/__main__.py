"""``python -m benchmarks`` runs every benchmark of the folder, one after another."""

import subprocess
import sys
from pathlib import Path

for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
    subprocess.run([sys.executable, "-m", f"benchmarks.{path.stem}"], check=True)
