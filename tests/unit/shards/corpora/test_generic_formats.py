"""JSON Lines, Kaldi folders, SegLST / STM / RTTM / TextGrid, tars and Lhotse manifests."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.cli import main
from shards.simulation.turn_statistics import estimate
from shards.sound.audio import load
from shards.weights.fetch import Wheel, fetch_wheel_member
from tests.support.corpora import audio, grid, prepare
from tests.support.speech import package_cache


def test_jsonl(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    audio(root / "a/m.wav", 20, channels=2)
    audio(root / "b/m.wav", 3)
    segments = [
        {"speaker": "ann", "start": 0.5, "end": 2.5, "text": "Hello, you."},
        {"speaker": 7, "start": 2, "end": 4, "text": "hi"},
        {"start": 5, "end": 6, "text": "somebody"},
    ]
    rows = [
        {"audio": "a/m.wav", "segments": segments, "session": "s1", "start": 10.0, "channel": 1, "language": "en"},
        {"audio": "b/m.wav", "segments": [{"speaker": "ann", "start": 1, "end": 2, "text": "again"}]},
        {"audio_filepath": "b/m.wav", "text": "nemo", "offset": 1.0, "duration": 1.5, "speaker": "bob"},
    ]
    text = "\r\n".join([*map(json.dumps, rows), "{not json", '{"audio": "b/m.wav"}', ""])
    (root / "train.jsonl").write_bytes(text.encode("utf-8-sig"))
    made = prepare("jsonl", root, tmp_path / "out", "--name", "our corpus", "--language", "zh")["train"]
    assert list(made.recordings) == ["a_m-000010000", "b_m", "b_m-000001000"]
    first = made.recordings["a_m-000010000"]
    assert (first.corpus, first.session, first.start, first.duration, first.channel) == ("our-corpus", "s1", 10, 10, 1)
    assert made.texts("a_m-000010000") == [
        ("our-corpus:ann", "Hello, you."),
        ("our-corpus:7", "hi"),
        ("our-corpus:unknown", "somebody"),
    ]
    assert [r.language for r in made.recordings.values()] == ["en", "zh", "zh"]
    assert made.recordings["b_m-000001000"].segments[0].end == 1.5
    assert {s.speaker: s.person for s in made.speakers.values()} == {
        s: s for s in ("our-corpus:ann", "our-corpus:7", "our-corpus:bob")
    }
    assert made.audit["skipped"] == {"line that is not of the form": 2}
    assert "train.jsonl:5" in made.audit["examples"]["line that is not of the form"][1]
    assert made.audit["text"]["with_punctuation"] == 1


def test_speakers_of_sessions_are_unknown_persons(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav", 3)
    audio(tmp_path / "b.wav", 3)
    segment = {"speaker": "1", "start": 0, "end": 2, "text": "x"}
    rows = [{"audio": f"{n}.wav", "segments": [segment]} for n in "ab"]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = tmp_path / "m.jsonl"
    made = prepare("jsonl", file, tmp_path / "out", "--name", "c", "--session-speakers")["m"]
    assert {s.speaker: s.person for s in made.speakers.values()} == {"c:a:1": None, "c:b:1": None}


def test_two_files_of_one_name_are_not_taken_for_one_session(tmp_path: Path, capsys) -> None:
    segments = [{"speaker": "1", "start": 0, "end": 2, "text": "x"}]
    for day in ("mon", "tue"):
        audio(tmp_path / day / "m.wav", 3)
    own = [{"audio": f"{day}/m.wav", "segments": segments} for day in ("mon", "tue")]
    file = tmp_path / "m.jsonl"
    file.write_text("\n".join(map(json.dumps, own)))
    assert main(["prepare", "jsonl", str(file), str(tmp_path / "out"), "--session-speakers"]) == 1
    assert "m.jsonl:2: mon/m.wav and tue/m.wav would both be session m" in capsys.readouterr().err
    file.write_text("\n".join(json.dumps(row | {"session": "m"}) for row in own))
    made = prepare("jsonl", file, tmp_path / "same", "--name", "c", "--session-speakers")["m"]
    assert list(made.speakers) == ["c:m:1"]
    nemo = [{"audio_filepath": f"{day}/m.wav", "text": "x", "speaker": "1"} for day in ("mon", "tue")]
    file.write_text("\n".join(map(json.dumps, nemo)))
    made = prepare("jsonl", file, tmp_path / "nemo", "--name", "c", "--session-speakers")["m"]
    assert list(made.speakers) == ["c:mon/m:1", "c:tue/m:1"]


def test_half_a_character_in_a_text_costs_that_text(tmp_path: Path, capsys) -> None:
    """As a tool leaves it that cuts texts between the two halves of an emoji."""
    audio(tmp_path / "a.wav", 5)
    texts = ("good", "cut \ud83d", "whole \U0001f600")
    segments = [{"speaker": "1", "start": i, "end": i + 1, "text": text} for i, text in enumerate(texts)]
    file = tmp_path / "m.jsonl"
    file.write_text(json.dumps({"audio": "a.wav", "segments": segments}))
    made = prepare("jsonl", file, tmp_path / "out", "--name", "c")["m"]
    assert made.texts("a") == [("c:1", "good"), ("c:1", "whole \U0001f600")]
    assert made.audit["skipped"] == {"segment whose text holds half a character": 1}
    file.write_text(json.dumps({"audio": "a.wav", "segments": [segments[0] | {"speaker": "\ud83d"}]}))
    assert main(["prepare", "jsonl", str(file), str(tmp_path / "out")]) == 1
    assert "half a character (a lone surrogate)" in capsys.readouterr().err


def kaldi(root: Path) -> None:
    audio(root / "wav/rec1.wav", 10)
    audio(root / "wav/rec2.wav", 2)
    (root / "wav.scp").write_text(f"rec1 {root}/wav/rec1.wav\nrec2 {root}/wav/rec2.wav\nrec3 sph2pipe x.sph |\n")
    (root / "segments").write_text("u1 rec1 0.5 2.5\nu2 rec1 2 4\nu3 rec2 0 -1\nu4 rec3 0 1\nu5 rec1 five 6\n")
    (root / "text").write_text("u1 Hello\nu2 WORLD\nu3 三\nu4 four\nu5 five\nu6 nowhere\n")
    (root / "utt2spk").write_text("u1 ann\nu2 bob\nu3 ann\nu4 cyd\nu5 ann\n")
    (root / "spk2gender").write_text("ann f\nbob M\n")


def test_kaldi(tmp_path: Path) -> None:
    kaldi(tmp_path / "data/train")
    made = prepare("kaldi", tmp_path / "data", tmp_path / "out", "--name", "k", "--text", "plain")["train"]
    assert made.texts("rec1") == [("k:ann", "HELLO"), ("k:bob", "WORLD")]
    assert made.recordings["rec2"].segments[0].end == 2.0  # -1 is the end of the recording
    assert {s.speaker: s.gender for s in made.speakers.values()} == {"k:ann": "f", "k:bob": "m"}
    assert made.audit["skipped"] == {
        "audio that is a command": 1,
        "line of segments that is not of the form": 1,
        "text without a line of segments": 1,
        "utterances of a recording that wav.scp lacks, or that is a command": 1,
    }


def test_kaldi_without_segments(tmp_path: Path) -> None:
    audio(tmp_path / "u1.wav", 2)
    (tmp_path / "wav.scp").write_text(f"u1 {tmp_path}/u1.wav\nu3 {tmp_path}/u1.wav\n")
    (tmp_path / "text").write_text("u1 hello\nu2 gone\n")
    (tmp_path / "utt2spk").write_text("u1 ann\nu2 ann\n")
    made = prepare("kaldi", tmp_path, tmp_path / "out", "--name", "k")
    (manifest,) = made.values()
    assert manifest.texts("u1") == [("k:ann", "hello")]
    assert manifest.recordings["u1"].duration == 2.0
    assert manifest.audit["skipped"] == {
        "audio without an utterance that can be used": 1,
        "utterances of a recording that wav.scp lacks, or that is a command": 1,
    }
    assert manifest.audit["examples"]["audio without an utterance that can be used"] == ["u3"]


def test_transcripts(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("s1", "s2", "s3", "s4"):
        audio(root / "wav" / f"{name}.wav", 10)
    seglst = [
        {"session_id": "s1", "speaker": "ann", "start_time": 0.5, "end_time": 2, "words": "hello you"},
        {"session_id": "gone", "speaker": "ann", "start_time": 0, "end_time": 1, "words": "x"},
    ]
    (root / "ref.json").write_bytes(json.dumps(seglst).encode("utf-8-sig"))
    stm = ";; a comment\ns2 1 bob 1.0 3.5 <o,f0,male> good day\r\ns2 1 cyd 3 4 <NA>\n"
    (root / "ref.stm").write_text(stm)
    lines = ["SPEAKER s2 1 0 9 <NA> <NA> bob <NA> <NA>", "SPKR-INFO s3 1 <NA> <NA> <NA> unknown ann <NA> <NA>"]
    lines += ["SPEAKER s3 1 1.5 2.0 <NA> <NA> ann <NA> <NA>"]
    (root / "ref.rttm").write_text("\n".join(lines) + "\n")
    (root / "bad.rttm").write_text("SPEAKER s3 1 x\n")
    grid(root / "s4.TextGrid", {"dan": [(1, 2, "eins"), (2, 3, "")], "noise": [(4, 5, "bang")]}, encoding="utf-16")
    made = prepare("transcripts", root, tmp_path / "out", "--name", "t")["all"]
    assert made.texts("s1") == [("t:ann", "hello you")]
    assert made.texts("s2") == [("t:bob", "good day")]
    assert [(s.start, s.end, s.text) for s in made.recordings["s3"].segments] == [(1.5, 3.5, "")]
    assert made.texts("s4") == [("t:dan", "eins")]
    assert made.audit["skipped"] == {
        "session of .rttm that .stm has too": 1,
        "session without audio": 1,
        "speaker without speech": 1,
        "transcript that cannot be read": 1,
    }


@pytest.mark.parametrize("kind", ["TextGrid", "stm", "audio"])
def test_two_meetings_of_one_name_are_told_and_not_merged(tmp_path: Path, kind: str, capsys) -> None:
    root = tmp_path / "in"
    for day in ("mon", "tue"):
        audio(root / day / "meeting.wav", 10)
        (root / day / "other.wav").touch()  # two of one name that no transcript asks for
        if kind == "TextGrid":
            grid(root / day / "meeting.TextGrid", {"ann": [(1, 2, day)]})
        elif kind == "stm" or day == "mon":
            (root / day / "all.stm").write_text(f"meeting 1 ann 1 2 {day}\n")
    assert main(["prepare", "transcripts", str(root), str(tmp_path / "out")]) == 1
    name = {"TextGrid": "meeting.TextGrid", "stm": "all.stm", "audio": "meeting.wav"}[kind]
    assert f"{root}/mon/{name} and {root}/tue/{name}: " in capsys.readouterr().err
    made = prepare("transcripts", root / "mon", tmp_path / "mon", "--name", "t")["all"]
    assert made.texts("meeting") == [("t:ann", "mon")]


PYANNOTE = Wheel(
    name="pyannote_audio",
    version="4.0.7",
    sha256="852ea15c4d85bc34773e618267603ffca6a521669a74d33742692cc67fc700d6",
    python="3.11",
    platform="manylinux_2_28_x86_64",
)
SAMPLE = {
    "wav": "c319b4abca767b124e41432d364fd7df006cb26bb79d09326c487d606a134e6e",
    "stm": "f861f3004927e1c4429199f9695bfd252def75d7d5e4bdf735d3d85fd4a667f7",
    "rttm": "d78fe62c69d8e6dcbb42c26adfce83faccb374c5a1e6d987fe37f85f1c173c87",
}


def test_a_real_conversation(tmp_path: Path) -> None:
    """Thirty seconds of two people on the telephone, with words in STM and turns in RTTM, out of a package."""
    for kind, digest in SAMPLE.items():
        path = fetch_wheel_member(PYANNOTE, f"pyannote/audio/sample/sample.{kind}", digest, package_cache())
        for folder in ("both", "turns"):
            if kind != "stm" or folder == "both":
                (tmp_path / folder).mkdir(exist_ok=True)
                shutil.copy(path, tmp_path / folder)
    words = prepare("transcripts", tmp_path / "both", tmp_path / "a", "--name", "p", "--language", "en")["all"]
    turns = prepare("transcripts", tmp_path / "turns", tmp_path / "b", "--name", "p", "--language", "en")["all"]
    assert words.texts("sample")[:3] == [("p:Diane", "Hello?"), ("p:Sheila", "Hello?"), ("p:Diane", "Oh, hello.")]
    assert words.recordings["sample"].duration == turns.recordings["sample"].duration == 30.0
    assert sorted(turns.speakers) == ["p:speaker90", "p:speaker91"]
    assert turns.audit["overlap"] > 0.02 > words.audit["overlap"]
    found = estimate(turns.recordings.values())
    assert found.transitions >= 8
    assert 0.2 < found.overlap < 0.8


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
        "audio that cannot be decoded": 1,
        "tar that cannot be read to its end": 1,
        "text without audio": 2,
    }


@pytest.mark.parametrize("damage", ["a header", "cut at a member", "cut in a header"])
def test_a_tar_that_is_damaged_in_the_middle_is_told(tmp_path: Path, damage: str) -> None:
    """tarfile ends there, as if that were all."""
    path = tmp_path / "in/w.tar"
    tar(path, [(f"a{i}.{end}", b"x" if end == "txt" else wav_bytes(0.5)) for i in range(3) for end in ("txt", "wav")])
    with tarfile.open(path) as archive:
        place = archive.getmembers()[2].offset
    data = bytearray(path.read_bytes())
    data[place + 10] ^= 0x40
    path.write_bytes({"a header": data, "cut at a member": data[:place]}.get(damage, data[: place + 100]))
    made = prepare("tars", tmp_path / "in", tmp_path / "out", "--name", "w")["all"]
    assert list(made.recordings) == ["a0"]
    assert made.audit["skipped"] == {"tar that cannot be read to its end": 1}
    assert f"at byte {place}" in made.audit["examples"]["tar that cannot be read to its end"][0]


def test_audio_of_a_tar_is_used_again_until_the_tar_changes(tmp_path: Path) -> None:
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


def test_lhotse(tmp_path: Path, capsys) -> None:
    from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet
    from lhotse.audio import AudioSource

    root = tmp_path / "in"
    there = Recording.from_file(audio(root / "wav/r1.wav", 10, channels=2), recording_id="r1")
    command = Recording("r2", [AudioSource("command", [0], "cat x")], 16_000, 16_000, 1.0)
    segments = [
        SupervisionSegment("u1", "r1", 1.0, 2.0, [0, 1], "HELLO", "English", "ann", "Female"),
        SupervisionSegment("u2", "r1", 2.5, 1.0, 0, "YOU", "English", None),
        SupervisionSegment("u3", "r2", 0, 1, 0, "X", "English", "bob"),
        SupervisionSegment("u4", "r9", 0, 1, 0, "X", "English", "bob"),
    ]
    RecordingSet.from_recordings([there, command]).to_file(root / "ami_recordings_train.jsonl.gz")
    SupervisionSet.from_segments(segments).to_file(root / "ami_supervisions_train.jsonl.gz")
    cut = MonoCut("c1", 1.5, 4.0, 0, [SupervisionSegment("u1", "r1", -0.5, 2.0, 0, "HELLO", "de", "ann")], None, there)
    CutSet.from_cuts([cut, cut.with_id("c2").pad(duration=6.0), cut.with_id("c3").perturb_speed(1.1)]).to_file(
        root / "cuts.jsonl.gz"
    )
    made = prepare("lhotse", root, tmp_path / "out", "--name", "ami")
    assert set(made) == {"train", "all"}
    train = made["train"]
    assert train.texts("r1") == [("ami:ann", "HELLO"), ("ami:unknown", "YOU")]
    assert (train.recordings["r1"].language, train.recordings["r1"].channel) == ("en", 0)
    assert train.speakers["ami:ann"].gender == "f"
    assert train.audit["skipped"] == {"audio that is no file": 1, "supervisions of a recording that is not there": 1}
    cuts = made["all"]
    assert (cuts.recordings["c1"].start, cuts.recordings["c1"].duration, cuts.recordings["c1"].session) == (
        1.5,
        4,
        "r1",
    )
    assert [(s.start, s.end) for s in cuts.recordings["c1"].segments] == [(0.0, 1.5)]  # it began before the cut
    assert cuts.audit["skipped"] == {"cut that only Lhotse can render": 1, "recording with transforms": 1}
    (root / "cuts.jsonl.gz").rename(root / "cuts_train.jsonl.gz")
    assert main(["prepare", "lhotse", str(root), str(tmp_path / "twice")]) == 1
    assert "cuts_train.jsonl.gz would both be the manifest 'train'; move one" in capsys.readouterr().err


def test_the_channel_that_lhotse_names_is_taken(tmp_path: Path) -> None:
    """A call with a speaker on each channel, as cuts and as a pair; an array whose channels are files."""
    from lhotse import CutSet, MonoCut, MultiCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet
    from lhotse.audio import AudioSource

    root, sounds = tmp_path / "in", tmp_path / "sounds"
    root.mkdir()
    audio(sounds / "call.wav", 4, channels=2)
    audio(sounds / "a/3.wav", 4)
    call = Recording("call", [AudioSource("file", [0, 1], "call.wav")], 16_000, 64_000, 4.0, [0, 1])
    files = [AudioSource("file", [c], f"a/{c}.wav") for c in (2, 3)]
    array = Recording("array", files, 16_000, 64_000, 4.0, [2, 3])
    left = SupervisionSegment("l", "call", 0.0, 2.0, 0, "LEFT", speaker="ann")
    right = SupervisionSegment("r", "call", 2.0, 2.0, 1, "RIGHT", speaker="bob")
    cuts = [MonoCut("c0", 0, 4, 0, [left, right], None, call), MonoCut("c1", 0, 4, 1, [right], None, call)]
    CutSet.from_cuts([*cuts, MultiCut("both", 0, 4, [0, 1], [left, right], None, call)]).to_file(root / "cuts.jsonl")
    heard = [SupervisionSegment(f"a{c[0]}", "array", 0.0, 2.0, c, "X", speaker="cyd") for c in ([2, 3], [3])]
    RecordingSet.from_recordings([call, array]).to_file(root / "recordings_train.jsonl")
    SupervisionSet.from_segments([left, right, *heard]).to_file(root / "supervisions_train.jsonl")
    made = prepare("lhotse", root, tmp_path / "out", "--name", "c", "--audio", str(sounds))

    def taken(name: str) -> dict[str, tuple[str, float]]:
        """Key → texts, and the level of the channel that is packed."""
        found = {}
        for key, r in made[name].recordings.items():
            wave = load(r.audio, channel=r.channel, start=r.start, duration=r.duration)
            found[key] = (" ".join(text for _, text in made[name].texts(key)), round(float(wave.std()), 2))
        return found

    of_call = {"0": ("LEFT", 0.01), "1": ("RIGHT", 0.02)}
    assert taken("all") == {f"{k}{c}": t for k in ("c", "both-") for c, t in of_call.items()}
    assert taken("train") == {f"call-{c}": t for c, t in of_call.items()} | {"array": ("X", 0.01)}
    assert made["train"].recordings["array"].audio.endswith("3.wav")
    assert {r.session for r in made["all"].recordings.values()} == {"call"}
    assert made["all"].audit["skipped"] == {"supervision on a channel that its recording or cut lacks": 1}
    assert made["train"].audit["changed"]["speech on several channels: a recording for each of them"] == 1


def test_what_another_recipe_of_lhotse_wrote(tmp_path: Path) -> None:
    """All the way from a corpus's own layout through `lhotse prepare` to a manifest here."""
    from lhotse.recipes import prepare_librispeech

    from tests.unit.shards.corpora.test_utterance_corpora import librispeech

    prepare_librispeech(librispeech(tmp_path / "corpus"), output_dir=tmp_path / "lhotse")
    made = prepare("lhotse", tmp_path / "lhotse", tmp_path / "out", "--name", "libri")["dev-clean"]
    assert made.texts("84-121123-0001") == [("libri:84", "IT'S PETER")]


def test_a_manifest_of_lhotse_that_is_cut_is_named(tmp_path: Path, capsys) -> None:
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    sound = Recording.from_file(audio(tmp_path / "r.wav", 4), recording_id="r")
    said = [SupervisionSegment("u", "r", 0, 2, text=f"{number * 7919}", speaker="ann") for number in range(500)]
    cuts = CutSet.from_cuts(MonoCut(f"c{i}", 0, 4, 0, [s], None, sound) for i, s in enumerate(said))
    path = tmp_path / "in/cuts.jsonl.gz"
    path.parent.mkdir()
    cuts.to_file(path)
    path.write_bytes(path.read_bytes()[:-500])
    assert main(["prepare", "lhotse", str(path.parent), str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert f"{path}: Lhotse cannot read it" in err
    assert "is the file whole?" in err


@pytest.mark.parametrize("place", ["empty", "missing"])
@pytest.mark.parametrize("kind", ["jsonl", "kaldi", "transcripts", "tars", "lhotse"])
def test_an_empty_folder_says_what_is_expected(tmp_path: Path, kind: str, place: str, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["prepare", kind, str(tmp_path / place), str(tmp_path / "out")]) == 1
    assert "there; expected" in capsys.readouterr().err
