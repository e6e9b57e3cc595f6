import subprocess
import sys

import pytest
from pydantic import ValidationError

from stages.contract.errors import InputFault
from stages.encoders.check import check_clip
from stages.encoders.config import ClipConfig
from stages.formats.clip_folders import CLIP_CONFIG


def make_config(**model):
    return ClipConfig(models=[model])


def test_checking_imports_neither_torch_nor_open_clip():
    code = (
        "import sys; from stages.encoders.check import check_clip; from stages.encoders.config import ClipConfig; "
        "check_clip(ClipConfig(models=[dict(kind='pretrained', name='ViT-B-16', tag='openai')])); "
        "print([m for m in ('torch', 'open_clip') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_no_model_is_refused():
    with pytest.raises(ValidationError):
        ClipConfig(models=[])


def test_a_missing_folder_is_named_with_its_key(tmp_path):
    with pytest.raises(InputFault, match=r"clip\.models\[0\]\.path: there is no folder .*nowhere"):
        check_clip(make_config(kind="folder", path=tmp_path / "nowhere"))


def test_a_folder_of_something_else_is_reported_with_its_content(tmp_path):
    (tmp_path / "weights.txt").write_text("")
    with pytest.raises(InputFault, match=r"has no open_clip_config\.json \(it holds weights\.txt\)"):
        check_clip(make_config(kind="folder", path=tmp_path))


def test_a_folder_without_weights_is_reported(tmp_path):
    (tmp_path / CLIP_CONFIG).write_text("{}")
    with pytest.raises(InputFault, match="has no weights"):
        check_clip(make_config(kind="folder", path=tmp_path))


def test_an_unknown_architecture_names_the_nearest():
    with pytest.raises(InputFault, match=r"clip\.models\[0\]\.name: .*'ViT-B16' \(nearest: ViT-B-16"):
        check_clip(make_config(kind="pretrained", name="ViT-B16", tag="openai"))


def test_a_folder_is_identified_by_its_content(tmp_path):
    identities = []
    for name, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / CLIP_CONFIG).write_text(content)
        identities.append(make_config(kind="folder", path=tmp_path / name).identity())
    assert identities[0] == identities[1] != identities[2]
