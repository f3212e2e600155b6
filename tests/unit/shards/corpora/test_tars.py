"""Tars of utterances: WeNet's and WebDataset's."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.cli import main
from shards.sound.audio import load
from tests.support.corpora import prepare


def wav_bytes(seconds: float, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(1).standard_normal(round(seconds * rate)) * 0.1, rate, format="WAV")
    return buffer.getvalue()


WAV = wav_bytes(0.5)


def tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = next((m for m in ("gz", "xz", "bz2") if path.name.endswith(m)), "")
    with tarfile.open(path, f"w:{mode}") as archive:
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
    make(tmp_path / "in/more/w.tar", "of that name elsewhere", 1.0)  # the first of two recordings of one name
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
    assert {k: (made.texts(k), r.duration) for k, r in made.recordings.items()} == {
        "a": ([("w:unknown", "of that name elsewhere")], 1.0),
        "w_a": ([("w:unknown", "new")], 0.75),
    }


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


def test_empty_texts_and_values_that_are_no_words(tmp_path: Path) -> None:
    metas = {"a": {"text": "hi", "speaker": None, "lang": "de", "snr": 3}, "b": {"text": None}, "c": {"text": ["x"]}}
    metas |= {"d": {"text": ""}, "e": {"text": "ho", "speaker": float("nan")}, "f" * 252: {"text": "x"}}
    members = [
        pair for key, m in metas.items() for pair in ((f"{key}.json", json.dumps(m).encode()), (f"{key}.wav", WAV))
    ]
    tar(tmp_path / "in/w.tar", [*members, ("g.txt", b""), ("g.wav", WAV), ("h.json", b"[" * 100_000)])
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
    assert {key: made.texts(key) for key in made.recordings} == {"a": [("w:unknown", "hi")], "e": [("w:unknown", "ho")]}
    assert made.recordings["a"].language == "de"
    skipped = made.audit["skipped"]
    assert skipped["segment without words"] == skipped["recording without speech"] == 2  # d and g
    assert skipped["invalid txt or json member"] == 3
    assert skipped["unknown key 'snr'"] == skipped["recording key of more than 240 bytes"] == 1


def test_tar_of_empty_texts_alone(tmp_path: Path, capsys) -> None:
    tar(tmp_path / "in/w.tar", [("g.txt", b" \n"), ("g.wav", WAV)])
    assert main(["prepare", "tars", str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    assert "no usable recording of tars" in capsys.readouterr().err


def sample(key: str, seconds: float, **more: bytes) -> list[tuple[str, bytes]]:
    members = {"txt": key.encode(), "wav": wav_bytes(seconds)} | more
    return [(f"{key}.{end}", data) for end, data in members.items() if data]


def spoken(made) -> dict[str, tuple[str, float]]:
    return {k: (made.texts(k)[0][1], r.duration) for k, r in made.recordings.items()}


@pytest.mark.parametrize("in_a_row", [True, False])
def test_one_name_in_two_folders_is_two_recordings(tmp_path: Path, in_a_row: bool) -> None:
    members = sample("a/u1", 0.5) + sample("b/u1", 1.0) + sample("./u1", 0.25)
    if not in_a_row:
        members = members[::2] + members[1::2]
    tar(tmp_path / "in/w.tar", members)
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
    assert spoken(made) == {"u1": ("a/u1", 0.5), "w_b_u1": ("b/u1", 1.0), "w_u1": ("./u1", 0.25)}
    assert [r.session for r in made.recordings.values()] == ["u1", "b/u1", "./u1"]
    assert made.audit["skipped"] == {}


def test_speakers_of_one_source_name_in_two_folders_are_two(tmp_path: Path) -> None:
    members = []
    for folder in "ab":
        for number in range(2):
            meta = json.dumps({"text": f"{folder}{number}", "speaker": "S0"}).encode()
            members += sample(f"{folder}/src_W{number}", 0.5, txt=b"", json=meta)
    tar(tmp_path / "in/w.tar", members)
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w", "--session-speakers")["all"]
    assert {x for k in made.recordings for x in made.texts(k)} == {
        ("w:src:S0", "a0"), ("w:src:S0", "a1"), ("w:b/src:S0", "b0"), ("w:b/src:S0", "b1"),
    }  # fmt: skip


def test_keys_with_dots(tmp_path: Path) -> None:
    keys = [f"sp{speed}-utt{i}" for speed in ("0.9", "1.1") for i in (1, 2)] + ["v1.2/utt.final"]
    tar(tmp_path / "in/w.tar", [m for i, key in enumerate(keys, 1) for m in sample(key, i / 4)])
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
    assert list(made.recordings) == ["sp0_9-utt1", "sp0_9-utt2", "sp1_1-utt1", "sp1_1-utt2", "utt_final"]
    assert list(spoken(made).values()) == [(key, i / 4) for i, key in enumerate(keys, 1)]
    assert made.audit["skipped"] == {}


@pytest.mark.parametrize("order", ["wav txt json npy", "npy json txt wav", "txt npy wav json", "json wav npy txt"])
def test_samples_of_four_members(tmp_path: Path, order: str) -> None:
    """Text and speaker may be in two members; an unknown member does not disturb the sample."""
    members = []
    for key in ("u1", "u2"):
        kinds = {"txt": key.encode(), "wav": wav_bytes(0.5), "npy": b"x", "json": b'{"speaker": "ann"}'}
        members += [(f"{key}.{end}", kinds[end]) for end in order.split()]
    tar(tmp_path / "in/w.tar", members)
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
    assert [made.texts(k) for k in made.recordings] == [[("w:ann", "u1")], [("w:ann", "u2")]]
    assert made.audit["skipped"] == {"member of a kind that is not read": 2}
    assert made.audit["examples"]["member of a kind that is not read"][0].endswith("w.tar: u1.npy")


def test_what_cannot_be_assigned_is_counted_once(tmp_path: Path) -> None:
    members = sample("u1", 0.5) + sample("bad", 0.5, json=b"[]") + [("README", b"x"), ("d/._u1.wav", b"x")]
    tar(tmp_path / "in/w.tar", [*members, ("u1.json", b'{"speaker": "too late"}'), ("mute.wav", wav_bytes(1))])
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
    assert spoken(made) == {"u1": ("u1", 0.5)}
    assert made.audit["skipped"] == {
        "audio without text": 1,
        "invalid txt or json member": 1,
        "member apart from its sample": 1,
        "member of a kind that is not read": 2,
    }


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("second", ["u1.wav", "u1.flac", "u1.txt"])
def test_a_second_member_of_a_kind_is_an_error(tmp_path: Path, capsys, second: str, late: bool) -> None:
    extra, other = [(second, b"other")], sample("u2", 0.5)
    tar(tmp_path / "in/w.tar", sample("u1", 0.5) + (other + extra if late else extra + other))
    assert main(["prepare", "tars", str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    kind = "txt" if second.endswith("txt") else "audio"
    assert f"w.tar: {second}: a second {kind} of the sample u1; rename or remove" in capsys.readouterr().err


def test_compressed_tars_are_read_and_other_archives_counted(tmp_path: Path) -> None:
    names = ("a.tar", "a.tar.gz", "b.v1.tar", "b.v2.tar", "c.tar.xz", "d.tar.bz2", "e.TXZ".lower(), "f.tbz2", "g.tgz")
    for i, name in enumerate(names, 1):
        tar(tmp_path / "in" / name, sample(f"u{i}", i / 8))
    for name in ("x.tar.zst", "y.zip"):
        (tmp_path / "in" / name).write_bytes(b"x")
    whole = (tmp_path / "in/c.tar.xz").read_bytes()
    (tmp_path / "in/cut.tar.xz").write_bytes(whole[: len(whole) // 2])
    for _ in range(2):  # the second time from the audio that the first one wrote
        made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
        assert {k: r.duration for k, r in made.recordings.items()} == {f"u{i}": i / 8 for i in range(1, 10)}
        assert made.audit["skipped"] == {
            "archive of a kind that is not read": 2,
            "truncated or damaged tar": 1,
            "text without audio": 1,  # of the truncated one
        }
        assert all(len(load(r.audio)) == r.duration * 16_000 for r in made.recordings.values())


def test_linked_tar_and_folder_are_read(tmp_path: Path) -> None:
    tar(tmp_path / "pool/w.tar", sample("u1", 0.5))
    tar(tmp_path / "pool/deep/v.tar", sample("u2", 0.5))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link.tar").symlink_to(tmp_path / "pool/w.tar")
    (tmp_path / "in/folder").symlink_to(tmp_path / "pool/deep")
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
    assert sorted(made.recordings) == ["u1", "u2"]


def test_name_of_a_member_that_is_not_utf8_is_counted(tmp_path: Path) -> None:
    members = [(f"{name}.{end}", b"x" if end == "txt" else WAV) for name in ("\udcff", "ok") for end in ("txt", "wav")]
    tar(tmp_path / "in/a.tar", members)
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
    assert list(made.recordings) == ["ok"]
    assert made.audit["skipped"] == {"recording with unreadable audio": 1}
