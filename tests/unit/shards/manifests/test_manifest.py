import json
import math

import pytest

from shards.errors import ManifestError
from shards.manifests.manifest import (
    RECORDINGS,
    SPEAKERS,
    SpeakerInfo,
    read_manifest,
    read_speakers,
    recording_to_json,
    write_manifest,
)
from shards.packing.partition import read_recordings
from shards.sample import Segment
from tests.support.manifests import recording


def test_round_trip_of_every_field(tmp_path):
    full = recording("/far/away.wav", start=2.5, duration=3.0, channel=7, sources=("x", "y"))
    plain = recording("/far/away.wav", key="a-2")
    speakers = [SpeakerInfo("c:A", "c", "zh", "f", "person-1"), SpeakerInfo("c:B", "c", "zh")]
    assert write_manifest(tmp_path / "m", [full, plain], speakers, {"kept": 2}) == 2
    assert list(read_manifest(tmp_path / "m")) == [full, plain]
    assert list(read_speakers(tmp_path / "m")) == speakers
    assert json.loads((tmp_path / "m" / "audit.json").read_text()) == {"kept": 2}


def test_audio_inside_the_folder_is_relative(tmp_path):
    write_manifest(tmp_path / "old", [recording(tmp_path / "old" / "wav" / "1.wav")], [], {})
    assert json.loads((tmp_path / "old" / RECORDINGS).read_text())["audio"] == "wav/1.wav"
    (tmp_path / "old").rename(tmp_path / "new")
    assert next(read_manifest(tmp_path / "new")).audio == str(tmp_path / "new" / "wav" / "1.wav")


def test_audio_outside_the_folder_is_absolute(tmp_path):
    write_manifest(tmp_path / "m", [recording(tmp_path / "m2" / "1.wav")], [], {})
    assert next(read_manifest(tmp_path / "m")).audio == str(tmp_path / "m2" / "1.wav")


WHOLE = recording_to_json(recording("/a.wav"))
WRONG = [
    {"key": 5}, {"audio": None}, {"language": ["zh"]}, {"start": "soon"}, {"duration": [1]}, {"duration": math.inf},
    {"channel": "left"}, {"channel": True}, {"segments": None}, {"segments": "abc"}, {"sources": [1]},
    {"session": "half a character: \ud83d"},
]  # fmt: skip
LINES = ["{", "[]", "5", '{"key": "x"}', '{"segments": [{"speaker": "A"}]}', '{"segments": [], "colour": 1}']


@pytest.mark.parametrize("line", LINES + [json.dumps(WHOLE | wrong) for wrong in WRONG])
def test_invalid_recording_line_is_named_in_the_error(tmp_path, line):
    write_manifest(tmp_path, [recording("/a.wav")], [], {})
    with (tmp_path / RECORDINGS).open("a") as file:
        file.write(f"\n{line}\n")
    reader = read_manifest(tmp_path)
    next(reader)
    with pytest.raises(ManifestError, match=r"recordings\.jsonl:3"):
        next(reader)
    offset = (tmp_path / RECORDINGS).read_bytes().index(b"\n\n") + 2
    with pytest.raises(ManifestError, match=rf"recordings\.jsonl: line at byte {offset}"):
        list(read_recordings(tmp_path, [offset]))


@pytest.mark.parametrize("line", ["[]", '{"speaker": 5, "corpus": "c", "language": "zh"}', '{"speaker": "c:A"}'])
def test_invalid_speaker_line_is_named_in_the_error(tmp_path, line):
    write_manifest(tmp_path, [], [], {})
    (tmp_path / SPEAKERS).write_text(line)
    with pytest.raises(ManifestError, match=r"speakers\.jsonl:1"):
        list(read_speakers(tmp_path))


def test_lone_surrogate_is_an_error_when_writing(tmp_path):
    with pytest.raises(ManifestError, match=r"lone surrogate \(half a character\) in .*\\ud83d"):
        write_manifest(tmp_path, [recording("/a.wav", session="s\ud83d")], [], {})
    write_manifest(tmp_path, [recording("/a.wav")], [], {"examples": ["\ud83d"]})
    assert json.loads((tmp_path / "audit.json").read_text())["examples"] == ["\ud83d"]


def test_reading_is_lazy(tmp_path):
    (tmp_path / RECORDINGS).write_text("not json\n")
    read_manifest(tmp_path)  # no error before the first record is asked for


def test_missing_manifest_is_an_error(tmp_path):
    with pytest.raises(ManifestError, match=r"recordings\.jsonl"):
        next(read_manifest(tmp_path))


def test_interrupted_write_keeps_the_former_manifest(tmp_path):
    write_manifest(tmp_path, [recording("/a.wav")], [], {})

    def broken():
        yield recording("/b.wav")
        raise RuntimeError("corpus ends early")

    with pytest.raises(RuntimeError):
        write_manifest(tmp_path, broken(), [], {})
    assert next(read_manifest(tmp_path)).audio == "/a.wav"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["audit.json", "recordings.jsonl", "speakers.jsonl"]


def test_speakers_are_in_order_of_first_appearance():
    segments = tuple(Segment(s, i, i + 1, "x") for i, s in enumerate("BABC"))
    assert recording("/a.wav", segments=segments).speakers == ("B", "A", "C")
