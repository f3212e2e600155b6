"""What the command prints and writes of several recordings, after faults and Ctrl-C too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.transcribe.show import alone, show
from pipeline.transcribe.stream import Update
from pipeline.transcribe.transcript import ChunkResult, Transcript, TranscriptTurn
from shards.commands import INTERRUPTED
from shards.errors import AudioError


def transcript(name: str, chunks: int) -> Transcript:
    made = Transcript(f"{name}.wav", "m", seconds=10.0 * chunks)
    for i in range(chunks):
        turn = TranscriptTurn("Mike", 10.0 * i, 10.0 * i + 1, f"{name} {i}", i)
        made.chunks.append(ChunkResult(i, 10.0 * i, 10.0 * i + 9, "raw", "end", (turn,)))
    return made


def test_turns_of_several_recordings_have_their_names(tmp_path: Path, capsys):
    updates = [
        Update(0, transcript("a", 1)),
        Update(1, transcript("b", 1)),
        Update(0, transcript("a", 2)),
        Update(2, transcript("c", 0), True, AudioError("c.wav: no audio")),
        Update(1, transcript("b", 1), True),
        Update(0, transcript("a", 2), True),
    ]
    assert show(updates, [Path("a.wav"), Path("b.wav"), Path("c.wav")], tmp_path, ("json",)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["a [0:00:00] Mike: a 0", "b [0:00:00] Mike: b 0", "a [0:00:10] Mike: a 1"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_a_recording_alone_has_no_name_before_its_turns(tmp_path: Path, capsys):
    assert show(alone(Path("a.wav"), [transcript("a", 1)]), [Path("a.wav")], tmp_path, ("json",)) == 0
    assert capsys.readouterr().out == "[0:00:00] Mike: a 0\n"
    assert json.loads((tmp_path / "a.json").read_text())["complete"]


def interrupted(*updates: Update) -> Iterator[Update]:
    yield from updates
    raise KeyboardInterrupt


def test_ctrl_c_keeps_what_was_transcribed_of_all_open_recordings(tmp_path: Path):
    audio = [Path("a.wav"), Path("b.wav"), Path("c.wav"), Path("d.wav")]
    updates = interrupted(
        Update(0, transcript("a", 1)), Update(1, transcript("b", 1), True), Update(2, transcript("c", 2))
    )
    assert show(updates, audio, tmp_path, ("json",)) == INTERRUPTED
    found = {p.stem: json.loads(p.read_text()) for p in tmp_path.iterdir()}
    assert {name: content["error"] for name, content in found.items()} == {
        "a": "a.wav: interrupted", "b": None, "c": "c.wav: interrupted"
    }  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        show(interrupted(), audio, tmp_path, ("json",))
