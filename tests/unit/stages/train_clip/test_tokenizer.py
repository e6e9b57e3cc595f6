from stages.encoders.open_clip_import import import_open_clip
from stages.train_clip.tokenizer import train_tokenizer

CAPTIONS = ["a small red circle at the top", "a large blue ring", "a red star on a white background"] * 5


def open_tokenizer(folder, **options):
    size = train_tokenizer(CAPTIONS, folder=folder, **({"vocab_size": 320, "context_length": 16} | options))
    return size, import_open_clip().tokenizer.HFTokenizer(str(folder), context_length=16)


def test_every_caption_begins_and_ends_and_the_end_has_the_highest_number(tmp_path):
    size, tokenizer = open_tokenizer(tmp_path)
    tokens = tokenizer(CAPTIONS)
    assert tokens.shape == (15, 16)
    assert (tokens[:, 0] == size - 2).all()
    assert (tokens.max(dim=1).values == size - 1).all()
    assert (tokens[0, tokens[0].argmax() + 1 :] == 0).all()


def test_no_text_is_unknown_and_case_does_not_matter(tmp_path):
    _, tokenizer = open_tokenizer(tmp_path)
    crab, star, capital = tokenizer(["a crab €", "a star €", "A STAR €"])
    assert not crab.equal(star)
    assert star.equal(capital)


def test_frequent_words_become_one_token(tmp_path):
    _, tokenizer = open_tokenizer(tmp_path)
    length = int(tokenizer(["a red"])[0].argmax()) - 1
    assert length == 2


def test_the_same_captions_give_the_same_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        open_tokenizer(tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
