"""Lhotse manifests: cuts, recordings and supervisions."""

import json
from pathlib import Path

from shards.cli import main
from shards.sound.audio import load
from tests.support.corpora import audio, librispeech, prepare


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
    assert train.audit["skipped"] == {"audio source other than a file": 1, "supervisions without a recording": 1}
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
    assert "cuts_train.jsonl.gz would both become the manifest 'train'; move one" in capsys.readouterr().err


def test_channels_of_supervisions_are_used(tmp_path: Path) -> None:
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
    assert made["all"].audit["skipped"] == {"supervision on a missing channel": 1}
    assert made["train"].audit["changed"]["speech on several channels: one recording per channel"] == 1


def test_output_of_lhotse_prepare(tmp_path: Path) -> None:
    """From a corpus through `lhotse prepare` to a manifest."""
    from lhotse.recipes import prepare_librispeech

    prepare_librispeech(librispeech(tmp_path / "corpus"), output_dir=tmp_path / "lhotse")
    made = prepare("lhotse", tmp_path / "lhotse", tmp_path / "out", "--name", "libri")["dev-clean"]
    assert made.texts("84-121123-0001") == [("libri:84", "IT'S PETER")]


def test_truncated_lhotse_manifest_is_named_in_the_error(tmp_path: Path, capsys) -> None:
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
    assert "is the file truncated?" in err


def test_empty_texts_and_unknown_speakers(tmp_path: Path) -> None:
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    sound = Recording.from_file(audio(tmp_path / "r.wav", 9), recording_id="r")
    texts = [("x", None), (None, "ann"), ("", "ann"), (["a"], "ann"), ("y", float("nan")), ("z", ["ann"])]
    said = [SupervisionSegment(f"u{i}", "r", 0, 1, text=t, speaker=s) for i, (t, s) in enumerate(texts)]
    (tmp_path / "in").mkdir()
    CutSet.from_cuts(MonoCut(f"c{i}", i, 1, 0, [s], None, sound) for i, s in enumerate(said)).to_file(
        tmp_path / "in/cuts.jsonl"
    )
    made = prepare("lhotse", tmp_path / "in", tmp_path / "out", "--name", "l")["all"]
    assert {key: made.texts(key) for key in made.recordings} == {
        "c0": [("l:unknown", "x")],
        "c4": [("l:unknown", "y")],
    }
    assert made.speakers == {}
    assert made.audit["skipped"] == {
        "invalid supervision": 2,
        "recording without speech": 4,
        "segment without words": 2,
    }


def test_one_row_that_lhotse_refuses_does_not_lose_the_others(tmp_path: Path) -> None:
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    sound = Recording.from_file(audio(tmp_path / "r.wav", 9), recording_id="r")
    said = [SupervisionSegment(f"u{i}", "r", 0, 1, text="x", speaker="ann", language="English") for i in range(3)]
    said += [SupervisionSegment("u3", "r", 0, 1, text="x", speaker="ann", language=float("nan"), gender=2)]
    path = tmp_path / "in/cuts.jsonl"
    path.parent.mkdir()
    CutSet.from_cuts(MonoCut(f"c{i}", i, 1, 0, [s], None, sound) for i, s in enumerate(said)).to_file(path)
    rows = path.read_text().splitlines()
    bad = ["{}", "[]", '{"type": "Cut9"}', rows[1].replace('"duration"', '"length"'), said[0].to_dict()]
    rows[1:2] = [row if isinstance(row, str) else json.dumps(row) for row in bad]
    path.write_text("\n".join(rows) + "\n")
    made = prepare("lhotse", tmp_path / "in", tmp_path / "out", "--name", "l", "--language", "de")["all"]
    assert {key: r.language for key, r in made.recordings.items()} == {"c0": "en", "c2": "en", "c3": "de"}
    assert made.audit["skipped"] == {"invalid row": len(bad)}
    assert [e.partition(": ")[0] for e in made.audit["examples"]["invalid row"]] == [f"{path}:{n}" for n in range(2, 7)]


def test_commands_are_run_if_allowed_and_urls_are_read(tmp_path: Path) -> None:
    from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet
    from lhotse.audio import AudioSource

    root = tmp_path / "in"
    path = audio(root / "call.wav", 4, channels=2)
    sources = {"c": ("command", "cat call.wav"), "u": ("url", path.as_uri())}
    RecordingSet.from_recordings(
        [
            Recording(key, [AudioSource(kind, [0, 1], where)], 16_000, 64_000, 4.0)
            for key, (kind, where) in sources.items()
        ]
    ).to_file(root / "recordings.jsonl")
    SupervisionSet.from_segments(
        [SupervisionSegment(key, key, 0, 2.0, 1, "HELLO", "English", "ann") for key in sources]
    ).to_file(root / "supervisions.jsonl")
    options = ("--name", "l", "--audio", str(root))
    assert list(prepare("lhotse", root, tmp_path / "no", *options)["all"].recordings) == ["u"]
    made = prepare("lhotse", root, tmp_path / "out", *options, "--allow-commands")["all"]
    assert {k: (r.duration, r.channel) for k, r in made.recordings.items()} == {"c": (4.0, 1), "u": (4.0, 1)}
    assert made.recordings["u"].audio == str(path)
    waves = [load(r.audio, channel=r.channel) for r in made.recordings.values()]
    assert (waves[0] == waves[1]).all()
