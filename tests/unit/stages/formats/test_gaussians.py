"""The Gaussians as a reader finds them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stages.contract.errors import ArtifactError
from stages.formats.gaussians import read_gaussians
from stages.storage.artifact import Artifact

READ = """
import sys
from stages.fit_gaussians.inspect import inspect
from stages.formats.gaussians import read_gaussians
from stages.storage.artifact import Artifact
print(read_gaussians(Artifact(sys.argv[1], "fit_gaussians", "f")).means.shape, "torch" in sys.modules)
"""


def save(folder: Path, **arrays: np.ndarray) -> Artifact:
    save_file(arrays, folder / "gaussians.safetensors")
    return Artifact(str(folder), "fit_gaussians", "f")


def test_a_reader_without_torch_has_the_arrays_that_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    means, stds = (rng.normal(size=(3, 4)).astype(np.float32) for _ in range(2))
    found = read_gaussians(save(tmp_path, means=means, stds=stds, counts=np.array([5, 0, 2])))
    np.testing.assert_array_equal(found.means, means)
    np.testing.assert_array_equal(found.stds, stds)
    np.testing.assert_array_equal(found.counts, [5, 0, 2])
    command = [sys.executable, "-c", READ, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(" ")[-1] == "False\n"


def test_arrays_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    means = np.zeros((3, 4), np.float32)
    artifact = save(tmp_path, means=means, stds=means[:2], counts=np.zeros(3, np.int64))
    with pytest.raises(ArtifactError, match=r"'stds': \(2, 4\).*delete .* and run again"):
        read_gaussians(artifact)
