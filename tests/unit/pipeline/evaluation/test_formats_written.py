"""Captions and tables: their text, and segments without times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.evaluation.formats import dumps, read, writable, write
from pipeline.evaluation.records import SegLstRow
from shards.errors import ScoreError
from tests.support.scoring import put

SEGMENTS = [
    SegLstRow("m1", "张三", "今天 开会", 0.0, 2.5),
    SegLstRow("m1", "Li Si", "好的", 2.25, 4.0),
    SegLstRow("m2", "张三", "你好", 0.5, 1.0),
]


def test_srt_and_vtt_in_order_of_time():
    segments = [SEGMENTS[1], SEGMENTS[0]]
    assert dumps(segments, "srt") == (
        "1\n00:00:00,000 --> 00:00:02,500\n张三: 今天 开会\n\n2\n00:00:02,250 --> 00:00:04,000\nLi Si: 好的\n"
    )
    assert dumps([SegLstRow("m", "A<b", "1 < 2 & 3", 3661.0, 3662.0007)], "vtt") == (
        "WEBVTT\n\n01:01:01.000 --> 01:01:02.001\n<v A&lt;b>1 &lt; 2 &amp; 3\n"
    )


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_a_caption_after_more_hours_than_there_are_is_refused(tmp_path: Path, kind: str):
    time = f"{'9' * 5000}:00:00{',' if kind == 'srt' else '.'}000"
    with pytest.raises(ScoreError, match="no times of a caption"):
        read(put(tmp_path / f"x.{kind}", f"{time} --> {time}\nA: x\n"))


def test_what_only_begins_like_a_tag_is_text_of_vtt(tmp_path: Path):
    times = "00:00.000 --> 00:01.000"
    path = put(tmp_path / "x.vtt", f"WEBVTT\n\n{times}\n<v A><b>x</b> {'<v ' * 20_000}\n")
    assert read(path) == [SegLstRow("x", "A", f"x {'<v ' * 20_000}".strip(), 0.0, 1.0)]


def test_tsv_and_json_need_no_times():
    untimed = [SegLstRow("m", "A", "x\ty\nz")]
    assert dumps(untimed, "tsv") == "session\tstart\tend\tspeaker\ttext\nm\t\t\tA\tx y z\n"
    assert json.loads(dumps(untimed, "json")) == [
        {"session": "m", "speaker": "A", "start": None, "end": None, "text": "x\ty\nz"}
    ]


@pytest.mark.parametrize("kind", ["stm", "rttm", "srt", "vtt"])
def test_formats_with_times_refuse_segments_without(kind: str):
    with pytest.raises(ScoreError, match="needs times"):
        dumps([SegLstRow("m", "A", "x")], kind)


@pytest.mark.parametrize("kind", writable())
def test_one_file_is_written_per_session(tmp_path: Path, kind: str):
    paths = write(SEGMENTS, tmp_path / kind, kind)
    assert [p.stem for p in paths] == ["m1", "m2"]
    assert all(p.stat().st_size for p in paths)
