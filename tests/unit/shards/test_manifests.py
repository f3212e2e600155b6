import json

import pytest

from shards.errors import ManifestError
from shards.manifests import RECORDINGS, SpeakerInfo, read_manifest, read_speakers, write_manifest
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


def test_audio_inside_the_folder_moves_with_it(tmp_path):
    write_manifest(tmp_path / "old", [recording(tmp_path / "old" / "wav" / "1.wav")], [], {})
    assert json.loads((tmp_path / "old" / RECORDINGS).read_text())["audio"] == "wav/1.wav"
    (tmp_path / "old").rename(tmp_path / "new")
    assert next(read_manifest(tmp_path / "new")).audio == str(tmp_path / "new" / "wav" / "1.wav")


def test_audio_outside_the_folder_stays_absolute(tmp_path):
    write_manifest(tmp_path / "m", [recording(tmp_path / "m2" / "1.wav")], [], {})
    assert next(read_manifest(tmp_path / "m")).audio == str(tmp_path / "m2" / "1.wav")


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"key": "x"}', '{"segments": [{"speaker": "A"}]}', '{"segments": [], "colour": 1}']
)
def test_a_bad_line_is_named(tmp_path, line):
    write_manifest(tmp_path, [recording("/a.wav")], [], {})
    with (tmp_path / RECORDINGS).open("a") as file:
        file.write(f"\n{line}\n")
    reader = read_manifest(tmp_path)
    next(reader)
    with pytest.raises(ManifestError, match=r"recordings\.jsonl:3"):
        next(reader)


def test_reading_is_lazy(tmp_path):
    (tmp_path / RECORDINGS).write_text("not json\n")
    read_manifest(tmp_path)  # no error before the first record is asked for


def test_no_manifest(tmp_path):
    with pytest.raises(ManifestError, match=r"recordings\.jsonl"):
        next(read_manifest(tmp_path))


def test_an_interrupted_write_leaves_the_former_manifest(tmp_path):
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
