from pathlib import Path

import pytest
from pydantic import ValidationError

from stages.contract.errors import InputFault
from stages.generate.config import FilePrompts, GenerateConfig, ListPrompts, ScenePrompts
from stages.generate.prompts import make_prompts, read_prompts


def write(path: Path, text: str) -> FilePrompts:
    path.write_text(text, encoding="utf-8")
    return FilePrompts(kind="file", path=path)


def test_txt_has_one_prompt_a_line(tmp_path: Path) -> None:
    assert read_prompts(write(tmp_path / "p.txt", "a red star\n\n  ein Haus  \n")) == ["a red star", "ein Haus"]


def test_the_layout_of_parti_prompts(tmp_path: Path) -> None:
    file = write(tmp_path / "p.tsv", 'Prompt\tCategory\na "red" star\tArts\na dog, asleep\tAnimals\n')
    assert read_prompts(file) == ['a "red" star', "a dog, asleep"]


def test_csv_with_another_column_and_a_limit(tmp_path: Path) -> None:
    file = write(tmp_path / "p.csv", 'id,text\n1,"a, b"\n2,c\n').model_copy(update={"column": "text", "limit": 1})
    assert [prompt.text for prompt in make_prompts(file)] == ["a, b"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.csv", "prompt,id\na,1\n", r"no column 'Prompt' \(nearest: prompt\): its columns are prompt, id"),
        ("p.txt", "\n \n", "holds no prompts"),
        ("p.json", "[]", r"allowed are \.txt, \.csv and \.tsv"),
    ],
)
def test_a_wrong_file_is_reported(tmp_path: Path, name: str, content: str, words: str) -> None:
    with pytest.raises(InputFault, match=words):
        read_prompts(write(tmp_path / name, content))


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"generate\.prompts\.path: cannot read"):
        read_prompts(FilePrompts(kind="file", path=tmp_path / "none.txt"))


def test_scene_prompts_are_reproducible_and_a_prefix_of_more() -> None:
    few, many = (make_prompts(ScenePrompts(kind="scenes", num=num)) for num in (4, 9))
    assert few == many[:4]
    assert all(prompt.scene is not None for prompt in few)


def test_list_prompts_have_no_scenes() -> None:
    assert [p.scene for p in make_prompts(ListPrompts(kind="list", texts=("a", "b")))] == [None, None]


def section(**fields: object) -> GenerateConfig:
    clip = {"models": [{"kind": "pretrained", "name": "ViT-B-16", "tag": "openai"}]}
    return GenerateConfig.model_validate({"clip": clip, "prompts": {"kind": "list", "texts": ["a"]}, **fields})


def test_sets_follow_from_the_prompts() -> None:
    assert section().chosen_sets == ("prior", "text_embedding")
    assert section(prompts={"kind": "scenes"}).chosen_sets == ("prior", "text_embedding", "reconstruction")
    assert section(sets=["text_embedding", "prior"]).chosen_sets == ("prior", "text_embedding")


def test_reconstruction_needs_true_images() -> None:
    with pytest.raises(ValidationError, match="prompts of kind list have none"):
        section(sets=["reconstruction"])


def test_each_set_once() -> None:
    with pytest.raises(ValidationError, match="each once"):
        section(sets=["prior", "prior"])


def test_batch_size_is_no_part_of_the_identity() -> None:
    assert section(batch_size=3).identity() == section().identity()
    assert section(seed=3).identity() != section().identity()
