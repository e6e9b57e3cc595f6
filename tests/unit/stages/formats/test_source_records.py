from stages.contract.errors import FailureCause
from stages.formats.source_records import Counted, Counter, SourceRecord, add_up, in_words
from stages.storage.artifact import Output


def test_entries_are_counted_by_cause_and_kind_with_the_first_as_an_example():
    counter = Counter()
    for name, kind in (("b\n.heic", ".heic"), ("a.heic", ".heic"), ("c.svg", ".svg")):
        counter.add(FailureCause.NO_IMAGE_FILE, name, kind)
    counter.add(FailureCause.HIDDEN_FILE, ".x")
    assert in_words(counter.counted) == (
        "hidden_file: 1 (first: .x), no_image_file: 3 (.heic 2, .svg 1; first: b\\n.heic)"
    )


def test_counts_are_added_up_and_many_kinds_are_shortened():
    one = {"x": Counted(count=2, example="a", kinds={".a": 2})}
    two = {"x": Counted(count=12, example="b", kinds={f".{letter}": 1 for letter in "abcdefghijkl"})}
    added = add_up([{}, one, two])
    assert added == add_up([one, {}, two])
    assert (added["x"].count, added["x"].example, sum(added["x"].kinds.values())) == (14, "a", 14)
    assert str(added["x"]).startswith("14 (.a 3, .b 1, ")
    assert "4 more kinds; first: a)" in str(added["x"])


def test_the_record_is_read_as_it_was_written(tmp_path):
    output = Output(str(tmp_path), "download_shards", "test")
    record = SourceRecord(found=3, used={"captions": 1}, skips={"x": Counted(count=1, example="a")})
    record.write(output)
    assert SourceRecord.of(output) == record
