"""A tiny CLIP, for all tests of a file."""

import pytest

from stages.encoders.config import ClipConfig, FolderClip
from tests.factories import save_tiny_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipConfig:
    folder = save_tiny_clip(tmp_path_factory.mktemp("clip"))
    return ClipConfig(models=(FolderClip(kind="folder", path=folder),))
