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
        (lambda s: s[: s.rindex('"', 0, s.rindex('"')) + 1], "the file ends, expected"),  # inside the last mark
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
