"""Which files of a folder belong to which image, by their names."""

import unicodedata
from pathlib import Path

import pytest

from stages.download_shards.config import FolderSource
from stages.download_shards.sources.folder import list_folder
from stages.formats.image_folders import captions_beside

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("images", "files", "expected"),
    [
        (["IMG_1.JPG", "img_1.jpg"], ["img_1.txt"], {"img_1.jpg": "img_1.txt"}),
        (["IMG_1.JPG", "img_1.jpg"], ["IMG_1.TXT"], {"IMG_1.JPG": "IMG_1.TXT"}),
        (["IMG_1.JPG", "img_1.jpg"], ["Img_1.txt"], {}),
        (
            ["IMG_1.JPG", "img_1.jpg"],
            ["IMG_1.txt", "img_1.txt"],
            {"IMG_1.JPG": "IMG_1.txt", "img_1.jpg": "img_1.txt"},
        ),
        ([f"{NFC}.png", f"{NFD}.png"], [f"{NFD}.txt"], {f"{NFD}.png": f"{NFD}.txt"}),
        (["A/1.png", "a/1.png", "b/1.png"], ["a/1.txt", "B/1.txt"], {"a/1.png": "a/1.txt", "b/1.png": "B/1.txt"}),
        (["IMG_1.JPG", "IMG_1.png"], ["img_1.txt"], {"IMG_1.JPG": "img_1.txt", "IMG_1.png": "img_1.txt"}),
        ([f"{NFC}.png", "B.png"], [f"{NFD}.txt", "b.txt"], {f"{NFC}.png": f"{NFD}.txt", "B.png": "b.txt"}),
        (["a.png"], ["A.txt", "A.TXT"], {}),
    ],
)
def test_a_caption_is_that_of_the_image_of_its_name(
    images: list[str], files: list[str], expected: dict[str, str]
) -> None:
    found = captions_beside(images, files)
    assert found == {image: {".txt": name} for image, name in expected.items()}


def test_images_whose_names_differ_in_case_alone_keep_their_own_captions(tmp_path: Path) -> None:
    for name in ("IMG_1.JPG", "img_1.jpg", "IMG_2.JPG"):
        (tmp_path / name).write_bytes(name.encode())
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("the file system does not tell names by their case")
    (tmp_path / "img_1.txt").write_text("of the second")
    (tmp_path / "img_2.txt").write_text("of the third")
    rows, record = list_folder(FolderSource(kind="folder", path=str(tmp_path)))
    assert dict(zip(rows["url"].to_pylist(), rows["__text__"].to_pylist(), strict=True)) == {
        "IMG_1.JPG": None, "IMG_2.JPG": "img_2.txt", "img_1.jpg": "img_1.txt",
    }  # fmt: skip
    assert (record.found, record.used) == (5, {"caption files": 2})
