"""Lines of STM and RTTM."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ManifestError
from shards.manifests.nist_lines import NistLine, parse_rttm, parse_stm


@pytest.mark.parametrize("channel", ["1", "A", "<NA>", "B1"])
@pytest.mark.parametrize("start", ["1", "1.0", "1e0"])
def test_channel_of_any_name(channel: str, start: str) -> None:
    assert parse_stm(f"s {channel} ann {start} 2.5 <o,f0,male> good day ") == NistLine(
        "s", channel, "ann", 1.0, 2.5, "good day", gender="male"
    )
    assert parse_rttm(f"SPEAKER s {channel} {start} 1.5 <NA> <NA> ann <NA>\n") == NistLine(
        "s", channel, "ann", 1.0, 2.5
    )


@pytest.mark.parametrize("label", ["", "<o,,unknown> ", "<O,F0,Male> "])
@pytest.mark.parametrize(
    "text", ["ignore_time_segment_in_scoring", "IGNORE_TIME_SEGMENT_IN_SCORING", "Ignore_Time_Segment_In_Scoring "]
)
def test_time_to_be_ignored_has_no_text(label: str, text: str) -> None:
    found = parse_stm(f"s 1 ann 0 1 {label}{text}")
    assert (found.text, found.ignored) == ("", True)


@pytest.mark.parametrize("name", ["inter_segment_gap", "INTER_SEGMENT_GAP", "excluded_region"])
def test_gaps_are_no_speakers(name: str) -> None:
    assert parse_stm(f"s 1 {name} 0 1 <o,,unknown> hello").ignored


def test_unknown_speaker_and_no_words() -> None:
    assert parse_stm("s 1 <NA> 0 1 hello") == NistLine("s", "1", None, 0, 1, "hello")
    assert parse_stm("s 1 ann 0 1 <o,f0,> <NA>") == parse_stm("s 1 ann 0 1") == NistLine("s", "1", "ann", 0, 1)
    assert parse_rttm("SPEAKER s 1 0 1 <NA> <NA> <NA> <NA> <NA>") == NistLine("s", "1", None, 0, 1)
    assert parse_rttm("SPKR-INFO s 1 <NA> <NA> <NA> unknown ann <NA> <NA>") is None


@pytest.mark.parametrize("line", ["s 1 ann 0", "s 1 ann nan 1 x", "s 1 ann 0 inf x", "s 1 ann zero 1 x", ""])
def test_invalid_stm(line: str) -> None:
    with pytest.raises(ManifestError, match=r"not an STM line|not a time"):
        parse_stm(line)


@pytest.mark.parametrize("rest", ["s 1 x", "s 1 nan 1 <NA> <NA> a <NA>", "s 1 0 1 <NA> <NA> a <NA> <NA> <NA>"])
def test_invalid_rttm(rest: str) -> None:
    with pytest.raises(ManifestError, match=r"not an RTTM line|not a time"):
        parse_rttm(f"SPEAKER {rest}")


@given(st.text())
def test_any_line_is_read_or_an_error(line: str) -> None:
    for parse in (parse_stm, parse_rttm):
        with contextlib.suppress(ManifestError):
            found = parse(line)
            assert found is None or math.isfinite(found.end - found.start)
