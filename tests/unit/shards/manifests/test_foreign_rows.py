"""Values of foreign rows: what is a text, a name, a time; what no schema knows is counted."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ManifestError
from shards.manifests.audit import MOST_KEYS, Audit
from shards.manifests.foreign_rows import Name, OptionalText, Row, Seconds, Text, parse_row

DEEP: Any = []
for _ in range(100_000):
    DEEP = [DEEP]


class Said(Row):
    text: Text
    speaker: Name = None
    start: Seconds = 0.0
    words: OptionalText = None
    unused = frozenset({"id"})


def read(row: object) -> Said:
    return parse_row(Said, row, Audit(), "f:1")


@pytest.mark.parametrize("value", [None, math.nan, math.inf, True, [], ["a"], {"a": 1}, DEEP])
def test_what_is_no_text_is_an_error(value: object) -> None:
    for key in ("text", "words"):
        with pytest.raises(ManifestError, match=rf"^f:1: {key} is .*, expected a text"):
            read({"text": "x", key: value})


@pytest.mark.parametrize("value", [None, math.nan, "", " ", "<NA>"])
def test_unknown_speakers(value: object) -> None:
    assert read({"text": "x", "speaker": value}).speaker is None


def test_spaces_around_a_name_are_no_part_of_it() -> None:
    assert read({"text": "x", "speaker": "\u3000ann lee \r"}).speaker == "ann lee"


@pytest.mark.parametrize("value", [math.inf, False, [], ["a"], {"a": 1}])
def test_what_is_no_name_is_an_error(value: object) -> None:
    with pytest.raises(ManifestError, match=r"^f:1: speaker is .*, expected a name"):
        read({"text": "x", "speaker": value})


@pytest.mark.parametrize("value", [None, math.nan, -math.inf, "Infinity", "1e999", 10**400, True, [1], "one"])
def test_what_is_no_time_is_an_error(value: object) -> None:
    with pytest.raises(ManifestError, match=r"^f:1: start is .*, expected seconds"):
        read({"text": "x", "start": value})


def test_values_as_written() -> None:
    row = read({"text": 5, "speaker": 7, "start": "1.5", "id": 9})
    assert (row.text, row.speaker, row.start, row.words) == ("5", "7", 1.5, None)
    assert read({"text": "<NA>"}).text == ""
    assert [read({"text": t}).text for t in ("None", "nan", "null")] == ["None", "nan", "null"]  # words that are said


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda s: st.lists(s) | st.dictionaries(st.text(), s),
)


@given(st.dictionaries(st.sampled_from(["text", "speaker", "start", "words", "id", "x"]), values) | values)
def test_any_row_is_read_or_an_error(row: object) -> None:
    audit = Audit()
    try:
        found = parse_row(Said, row, audit, "f:1")
    except ManifestError:
        return
    assert isinstance(found.text, str)
    assert math.isfinite(found.start)
    json.dumps(audit.result(), allow_nan=False)
    assert audit.result()["skipped"] == ({"unknown key 'x'": 1} if "x" in row else {})  # type: ignore[operator]


def test_unknown_keys_are_counted_by_name_up_to_a_bound() -> None:
    audit = Audit()
    for number in range(MOST_KEYS + 20):
        for _ in range(2):
            parse_row(Said, {"text": "x", f"k{number}": 1}, audit, f"f:{number}")
    skipped = audit.result()["skipped"]
    assert skipped["unknown key 'k0'"] == 2
    assert skipped["other unknown key"] == 40
    assert len(skipped) == MOST_KEYS + 1
