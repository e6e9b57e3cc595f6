"""Exit codes; and a full disk is reported as one, whichever library finds it: here each writes to /dev/full."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import SafetensorError

from pipeline.cli import _report_error
from pipeline.errors import UsageError, full_disk
from pipeline.stage_results import describe
from stages.contract.errors import ArtifactError, InputFault

FULL = Path("/dev/full")
WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("x"),
    "numpy": lambda path: np.save(path, np.zeros(3)),
    "parquet": lambda path: pq.write_table(pa.table({"x": [1]}), path),
}


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_reported_as_one(write: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "on-a-full-disk.npy"
    path.symlink_to(FULL)  # a library that replaces files replaces the link
    with pytest.raises(Exception, match=os.strerror(errno.ENOSPC)) as caught:
        write(path)
    assert (full_disk(caught.value) or "").startswith("a disk is full (")


def test_another_writer_s_wording_is_understood() -> None:
    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (full_disk(error) or "").startswith("a disk is full (Error while serializing")


def test_stages_and_commands_report_it(capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert describe(error).startswith("a disk is full (")
    assert _report_error(error) == 3
    assert capsys.readouterr().err.startswith("corgi: a disk is full (")


@pytest.mark.parametrize(("kind", "code"), [(UsageError, 2), (InputFault, 2), (ArtifactError, 3), (KeyError, 1)])
def test_what_is_refused_is_bad_usage_and_what_is_damaged_is_not(kind: type[Exception], code: int) -> None:
    assert _report_error(kind("x")) == code


def test_the_disk_of_the_file_is_named_that_could_not_be_written(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "out/00000.png"))
    assert f"make room on the disk of {tmp_path}/out, then run" in (full_disk(full) or "")
    with pytest.raises(UsageError) as caught:
        _refuse(full)
    assert f"make room on the disk of {tmp_path}/out, then run" in (full_disk(caught.value) or "")
    assert "make room where the store is" in (full_disk(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) or "")


def _refuse(found: OSError) -> None:
    try:
        raise found
    except OSError as error:
        raise UsageError(f"--out: cannot be written ({error.strerror})") from None


def test_other_faults_are_not(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        (tmp_path / "nothing" / "there").write_text("x")
    assert full_disk(caught.value) is None
