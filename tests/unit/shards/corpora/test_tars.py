"""Tars of utterances: WeNet's and WebDataset's."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.sound.audio import load
from tests.support.corpora import prepare


def wav_bytes(seconds: float, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(1).standard_normal(round(seconds * rate)) * 0.1, rate, format="WAV")
    return buffer.getvalue()


def tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_wenet_tars(tmp_path: Path) -> None:
    members = [("a1.txt", "你好".encode()), ("a1.wav", wav_bytes(1.0, 8_000)), ("a2.txt", b"x"), ("a2.wav", b"no")]
    tar(tmp_path / "in/shards_000.tar", [*members, ("a3.txt", b"alone")])
    whole = tmp_path / "in/shards_001.tar.gz"
    tar(whole, [("b1.txt", "再见".encode()), ("b1.wav", wav_bytes(0.5))])
    cut = tmp_path / "in/shards_002.tar"
    tar(cut, [("c1.txt", b"c"), ("c1.wav", wav_bytes(2.0))])
    cut.write_bytes(cut.read_bytes()[:20_000])
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w", "--language", "zh")["all"]
    assert made.texts("a1") == [("w:unknown", "你好")]
    assert made.recordings["a1"].duration == 1.0
    assert len(load(made.recordings["a1"].audio)) == 16_000
    assert sorted(made.recordings) == ["a1", "b1"]
    assert made.audit["skipped"] == {
        "undecodable audio": 1,
        "truncated or damaged tar": 1,
        "text without audio": 2,
    }


@pytest.mark.parametrize("damage", ["a header", "cut at a member", "cut in a header"])
def test_tar_damaged_in_the_middle_is_counted(tmp_path: Path, damage: str) -> None:
    """tarfile would treat the damage as the end of the archive."""
    path = tmp_path / "in/w.tar"
    tar(path, [(f"a{i}.{end}", b"x" if end == "txt" else wav_bytes(0.5)) for i in range(3) for end in ("txt", "wav")])
    with tarfile.open(path) as archive:
        place = archive.getmembers()[2].offset
    data = bytearray(path.read_bytes())
    data[place + 10] ^= 0x40
    path.write_bytes({"a header": data, "cut at a member": data[:place]}.get(damage, data[: place + 100]))
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
    assert list(made.recordings) == ["a0"]
    assert made.audit["skipped"] == {"truncated or damaged tar": 1}
    assert f"at byte {place}" in made.audit["examples"]["truncated or damaged tar"][0]


def test_extracted_audio_is_reused_until_the_tar_changes(tmp_path: Path) -> None:
    def make(path: Path, text: str, seconds: float) -> None:
        tar(path, [("a.txt", text.encode()), ("a.wav", wav_bytes(seconds))])

    path = tmp_path / "in/w.tar"
    make(path, "old", 0.5)
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
    written = Path(made.recordings["a"].audio).stat().st_mtime_ns
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
    assert Path(made.recordings["a"].audio).stat().st_mtime_ns == written
    make(path, "new", 0.75)
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
    assert (made.texts("a"), made.recordings["a"].duration) == ([("w:unknown", "new")], 0.75)
    make(tmp_path / "in/more/w.tar", "of that name elsewhere", 1.0)  # the first of two recordings with one key
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
    assert made.texts("a") == [("w:unknown", "of that name elsewhere")]
    assert made.recordings["a"].duration == 1.0


def test_emilia_tars(tmp_path: Path) -> None:
    """mp3 and json; the speaker is a cluster within its source."""

    def pair(source: str, number: int, speaker: str) -> list[tuple[str, bytes]]:
        key = f"{source}_W{number:06d}"
        meta = {"id": key, "text": " Hallo, du!", "duration": 1.0, "speaker": speaker, "language": "de", "dnsmos": 3.3}
        buffer = io.BytesIO()
        soundfile.write(buffer, np.random.default_rng(1).standard_normal(24_000) * 0.1, 24_000, format="MP3")
        return [(f"DE/{key}.mp3", buffer.getvalue()), (f"DE/{key}.json", json.dumps(meta).encode())]

    tar(tmp_path / "in/DE-B000000.tar", [*pair("DE_x", 0, "S0"), *pair("DE_x", 1, "S0"), *pair("DE_y", 0, "S0")])
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "emilia", "--session-speakers")["all"]
    assert made.texts("DE_x_W000000") == [("emilia:DE_x:S0", "Hallo, du!")]
    assert made.recordings["DE_x_W000000"].language == "de"
    assert {s.speaker: s.person for s in made.speakers.values()} == {"emilia:DE_x:S0": None, "emilia:DE_y:S0": None}
