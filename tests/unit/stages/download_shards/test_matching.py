"""Names of files in metadata, over trees that hypothesis makes."""

import posixpath
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.contract.errors import FailureCause, ItemFault
from stages.download_shards.sources.folder_listing import list_tree
from stages.download_shards.sources.matching import IMAGE_SUFFIXES, FileIndex, fold
from stages.storage.walking import Found, Kind

BOUNDED = settings(derandomize=True, deadline=None, max_examples=300)
PARTS = st.text(st.sampled_from("aAbB01é.é_ ñ"), min_size=1, max_size=6).filter(lambda part: part.strip(". ") == part)
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
FILES = st.builds(lambda path, suffix: path + suffix, PATHS, st.sampled_from([".png", ".JPG", ".jpeg"]))
TREES = st.lists(FILES, min_size=1, max_size=10, unique=True)
TOP = "/data/images"


@given(TREES)
@BOUNDED
def test_every_file_is_found_by_its_own_name(names):
    index = FileIndex(names, [TOP])
    for name in names:
        assert index.match(name, "") == name
        assert index.match(f"./{name}", "") == name
        assert index.match(f"{TOP}/{name}", "any") == name
        folder, _, last = name.rpartition("/")
        assert index.match(last, folder) == name
        if name.replace("/", "\\") not in names:
            assert index.match(name.replace("/", "\\"), "") == name


@given(TREES, st.sampled_from([str.lower, str.upper, lambda text: unicodedata.normalize("NFD", text)]))
@BOUNDED
def test_a_name_in_another_form_is_found_where_it_means_one_file(names, change):
    index = FileIndex(names, [TOP])
    for name in names:
        found = index.match(change(name), "")
        alike = [one for one in names if fold(one) == fold(name)]
        if change(name) in names:
            assert found == change(name)
        elif len(alike) == 1:
            assert found == name
        else:
            assert isinstance(found, ItemFault)
            assert found.cause is FailureCause.UNMATCHED_ROW


def test_a_file_that_a_row_names_exactly_is_not_given_to_a_row_whose_name_is_alike():
    index = FileIndex(["a.png", "b.png"], [TOP])
    found = index.match("A.png", "", named={"a.png"})
    assert isinstance(found, ItemFault)
    assert found.cause is FailureCause.MISSING_FILE
    assert index.match("A.png", "", named={"b.png"}) == "a.png"
    assert index.match("a.png", "", named={"a.png"}) == "a.png"


@given(TREES, st.text(max_size=20), PATHS)
@BOUNDED
def test_any_name_is_a_file_of_the_tree_or_a_cause(names, text, folder):
    found = FileIndex(names, [TOP]).match(text, folder)
    causes = {FailureCause.UNMATCHED_ROW, FailureCause.MISSING_FILE, FailureCause.OUTSIDE_FOLDER}
    assert found in names if isinstance(found, str) else found.cause in causes


@given(st.lists(st.integers(0, 120), min_size=1, max_size=8, unique=True), st.integers(0, 3), st.integers(0, 120))
@BOUNDED
def test_a_number_is_found_with_zeros_before_it_where_it_means_one_file(numbers, zeros, wanted):
    names = [f"{'0' * (zeros + 1)}{number}.png" for number in numbers]
    found = FileIndex(names, []).match(str(wanted), "")
    assert found == f"{'0' * (zeros + 1)}{wanted}.png" if wanted in numbers else isinstance(found, ItemFault)
    ambiguous = FileIndex([*names, *(f"{number}.jpg" for number in numbers)], []).match(f"000{numbers[0]}x", "")
    assert isinstance(ambiguous, ItemFault)


@given(st.lists(st.tuples(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=12),
                          st.sampled_from(["", ".png", ".txt", ".json", ".heic", ".csv"]),
                          st.sampled_from(Kind)), max_size=20, unique_by=lambda one: one[0] + one[1]))  # fmt: skip
@BOUNDED
def test_every_name_of_a_tree_is_accounted_for(found):
    names = [Found(name + suffix, kind) for name, suffix, kind in found]
    listing = list_tree(names)
    skipped = sum(one.count for one in listing.skips.counted.values())
    assert listing.found == len(names)
    assert listing.found == len(listing.images) + len(listing.lost) + sum(listing.used.values()) + skipped
    assert all(posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in listing.images)
