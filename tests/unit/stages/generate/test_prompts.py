import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.contract.errors import InputFault
from stages.generate.config import FilePrompts, GenerateConfig, ListPrompts, ScenePrompts
from stages.generate.prompts import LONGEST_PROMPT, make_prompts, read_prompts


def write(path: Path, text: str) -> FilePrompts:
    path.write_text(text, encoding="utf-8")
    return FilePrompts(kind="file", path=path)


def test_txt_has_one_prompt_a_line(tmp_path: Path) -> None:
    assert read_prompts(write(tmp_path / "p.txt", "a red star\n\n  ein Haus  \n")) == ["a red star", "ein Haus"]


def test_the_layout_of_parti_prompts(tmp_path: Path) -> None:
    file = write(tmp_path / "p.tsv", 'Prompt\tCategory\na "red" star\tArts\na dog, asleep\tAnimals\n')
    assert read_prompts(file) == ['a "red" star', "a dog, asleep"]


def test_categories_of_benchmark_files_are_kept(tmp_path: Path) -> None:
    parti = write(tmp_path / "p.tsv", "Prompt\tCategory\tChallenge\tNote\na dog\tAnimals\tBasic\tx\na cup\t\tBasic\t\n")
    both = {"Category": "Animals", "Challenge": "Basic"}
    assert [one.categories for one in make_prompts(parti)] == [both, {"Challenge": "Basic"}]
    bench = write(tmp_path / "d.csv", "Prompts,Category\nA red car.,Colors\n")
    assert [(one.text, one.categories) for one in make_prompts(bench)] == [("A red car.", {"Category": "Colors"})]
    assert make_prompts(bench.model_copy(update={"categories": ()}))[0].categories == {}
    with pytest.raises(InputFault, match=r"generate\.prompts\.categories: .* has no column 'Kind': its columns are"):
        make_prompts(bench.model_copy(update={"categories": ("Kind",)}))


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


HOSTILE: dict[str, tuple[bytes, str]] = {
    "latin.txt": ("caf\u00e9".encode("latin-1"), "UnicodeDecodeError"),
    "utf16.txt": ("a star".encode("utf-16"), "UnicodeDecodeError"),
    "long.csv": (
        b"Prompt\n" + b"x" * 200_000 + b"\n",
        "line 2.*field larger than field limit|the longest of 200,000 characters",
    ),
    "long.txt": (b"x" * 20_000, "the longest of 20,000 characters"),
    "open.csv": (b'Prompt,id\n"a star,1\na ring,2\n', "line 3.*unexpected end of data"),
    "open.tsv": (b'Prompt\tid\n"a star\t1\na "ring"\t2\n', "line 3"),
    "swallowed.tsv": (b'Prompt\tid\n"a star\t1\na ring"\t2\n', "several lines"),
    "twice.csv": (b"Prompt,Prompt\na,b\n", "has 2 columns 'Prompt'"),
    "\x1b[31m.txt": (b"\xff", "UnicodeDecodeError"),
    "empty.csv": (b"", "its columns are none"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, name: str) -> None:
    content, words = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputFault, match=words) as caught:
        read_prompts(FilePrompts(kind="file", path=tmp_path / name))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.txt")
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path / "fifo.txt", tmp_path / "folder.txt"):
        with pytest.raises(InputFault, match="it is no file"):
            read_prompts(FilePrompts(kind="file", path=path))


def test_lines_end_where_editors_end_them_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("\ufeffa\r\nb\x0bc\u2028d\x85e\rf".encode())
    assert read_prompts(FilePrompts(kind="file", path=tmp_path / "p.txt")) == ["a", "b\x0bc\u2028d\x85e", "f"]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    content=st.one_of(st.binary(max_size=80), st.text(max_size=40).map(str.encode)),
    head=st.sampled_from([("txt", b""), ("csv", b"Prompt,x\n"), ("tsv", b"Prompt\tx\n")]),
)
def test_any_file_gives_prompts_or_a_sentence(
    content: bytes, head: tuple[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{head[0]}"
    path.write_bytes(head[1] + content)
    try:
        found = read_prompts(FilePrompts(kind="file", path=path))
    except InputFault as error:
        found = [str(error)]
    assert all(one.strip() and len(one) <= LONGEST_PROMPT for one in found)


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
