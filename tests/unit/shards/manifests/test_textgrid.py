"""TextGrid files: all encodings and formats, no silent repair, damage is an error."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import ManifestError
from shards.manifests.textgrid import read_textgrid
from tests.support.corpora import long_grid, short_grid

TIERS = {"张三": [(0.0, 1.5, ""), (1.5, 2.25, '他说 "好"'), (2.25, 60.0, "")], "F_SPK2": [(3.0, 4.0, "ＡＴＭ")]}


def marks(path: Path) -> dict[str, list[tuple[float, float, str]]]:
    return {t.name: [(i.start, i.end, i.mark) for i in t.intervals] for t in read_textgrid(path)}


@pytest.mark.parametrize("form", [long_grid, short_grid])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_forms_encodings_and_line_ends(tmp_path: Path, form, encoding: str, newline: str) -> None:
    (tmp_path / "a.TextGrid").write_bytes(form(TIERS).replace("\n", newline).encode(encoding))
    assert marks(tmp_path / "a.TextGrid") == TIERS


text = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\u2028\u2029\x85"), max_size=8)
times = st.floats(-100, 100).map(lambda x: round(x, 3))
interval = st.tuples(times, times, text.map(lambda s: " ".join(s.split())))


@settings(max_examples=200, deadline=None)
@given(tiers=st.dictionaries(text.map(str.strip), st.lists(interval, max_size=5), max_size=4), short=st.booleans())
def test_round_trip_of_random_tiers(tmp_path_factory: pytest.TempPathFactory, tiers, short: bool) -> None:
    """Quotes, brackets, numbers and words of the format inside marks; negative and reversed times."""
    tiers = {name.replace('"', "'"): list(found) for name, found in tiers.items()}
    path = tmp_path_factory.mktemp("g") / "a.TextGrid"
    path.write_bytes((short_grid if short else long_grid)(tiers).encode())
    assert marks(path) == tiers


def test_marks_that_resemble_the_format(tmp_path: Path) -> None:
    tiers = {"a": [(-1.5, 2.0, 'item [3]: class = "IntervalTier" size = 4'), (5.0, 3.0, "! <exists> 7 xmin = 1")]}
    (tmp_path / "a.TextGrid").write_text(long_grid(tiers))
    assert marks(tmp_path / "a.TextGrid") == tiers


def test_line_ends_and_byte_order_marks_inside_a_mark(tmp_path: Path) -> None:
    (tmp_path / "a.TextGrid").write_bytes(long_grid({"a": [(0, 1, "\ufeff一\r\n 二 \r\n")]}).encode())
    assert marks(tmp_path / "a.TextGrid") == {"a": [(0.0, 1.0, "一 二")]}


def test_point_tiers_are_skipped(tmp_path: Path) -> None:
    points = '"TextTier"\n"bell"\n0\n60\n2\n1.5\n"ding"\n2.5\n"dong"\n'
    both = short_grid(TIERS).replace("<exists>\n2\n", "<exists>\n3\n" + points)
    (tmp_path / "a.TextGrid").write_text(both)
    assert marks(tmp_path / "a.TextGrid") == TIERS


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda s: s[: len(s) // 2], "the file ends, expected"),
        (lambda s: s[: s.rindex('"', 0, s.rindex('"')) + 1], "a text ends too early"),  # inside the last mark
        (lambda s: "", "the file ends, expected the file type"),
        (lambda s: s.replace("ooTextFile", "Pitch"), "header is not"),
        (lambda s: s.replace("size = 2", "size = 2.5"), "number of tiers is 2.5"),
        (lambda s: s.replace("xmin = 3.0", "xmin = here"), "line"),
        (lambda s: s.replace("IntervalTier", "Sound"), "unknown class 'Sound'"),
    ],
)
def test_damaged_file_is_an_error(tmp_path: Path, damage, reason: str) -> None:
    (tmp_path / "a.TextGrid").write_text(damage(long_grid(TIERS)))
    with pytest.raises(ManifestError, match=rf"a.TextGrid: invalid TextGrid.*{reason}"):
        read_textgrid(tmp_path / "a.TextGrid")


def test_undecodable_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a.TextGrid").write_bytes(long_grid(TIERS).encode("gb18030"))
    with pytest.raises(ManifestError, match="neither UTF-8 nor UTF-16"):
        read_textgrid(tmp_path / "a.TextGrid")
    with pytest.raises(ManifestError, match="No such file"):
        read_textgrid(tmp_path / "b.TextGrid")


SPOKEN = ['" !', 'she said "hi" to me', '他说"好"吧', 'he said "hi"', '"', '"a" 5 "b"', '", hello "', "plain"]


def with_marks(form, found: list[str]) -> str:
    """A tier with these marks, whose quotes are not doubled, and a second tier."""
    content = form({"a": [(float(i), i + 1.0, f"@{i}@") for i in range(len(found))], "b": [(0.0, 1.0, "end")]})
    for i, mark in enumerate(found):
        content = content.replace(f"@{i}@", mark)
    return content


@pytest.mark.parametrize("form", [long_grid, short_grid])
@pytest.mark.parametrize("ends", ["\n", "\n\n", " \n"])
def test_quotes_that_are_not_doubled_are_read(tmp_path: Path, form, ends: str) -> None:
    (tmp_path / "a.TextGrid").write_text(with_marks(form, SPOKEN).replace("\n", ends))
    found = marks(tmp_path / "a.TextGrid")
    assert [mark for _, _, mark in found["a"]] == SPOKEN
    assert found["b"] == [(0.0, 1.0, "end")]


words = st.lists(st.sampled_from(['"', "hi", "好", " ", "5", "<a>", "!"]), min_size=1, max_size=8).map("".join)


@settings(max_examples=150, deadline=None)
@given(found=st.lists(words.map(lambda s: " ".join(s.split())), min_size=1, max_size=4), short=st.booleans())
def test_undoubled_quotes_lose_no_word(tmp_path_factory: pytest.TempPathFactory, found: list[str], short: bool) -> None:
    """Every mark is read whole, or the file is an error; a doubled quote and two quotes cannot be told apart."""
    content = with_marks(short_grid if short else long_grid, found)
    path = tmp_path_factory.mktemp("g") / "a.TextGrid"
    path.write_bytes(content.encode())
    try:
        read = marks(path)
    except ManifestError:
        return
    words_of = [m.replace('"', "").split() for _, _, m in read["a"]]
    assert words_of == [f.replace('"', "").split() for f in found]
    assert read["b"] == [(0.0, 1.0, "end")]


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.replace('text = "one"', 'text = "one" more'),
        lambda s: s.replace('text = "one"', 'text = "one" "two" x'),
        lambda s: s + '        text = "more"\n',
        lambda s: s.replace("xmax = 1.0", 'xmax = 1.0 "'),
    ],
)
def test_what_may_be_a_part_of_a_mark_is_an_error(tmp_path: Path, damage) -> None:
    (tmp_path / "a.TextGrid").write_text(damage(long_grid({"a": [(0.0, 1.0, "one")]})))
    with pytest.raises(ManifestError, match=r"invalid TextGrid: line 1[5-9]: "):
        read_textgrid(tmp_path / "a.TextGrid")
