"""What the commands write is read back to the same figures: every writer, every reader, single files and folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.cli import main
from pipeline.evaluation.formats import read, writable, write
from pipeline.evaluation.normalize import profile
from pipeline.evaluation.pairing import pair
from pipeline.evaluation.records import LONGEST_NAME, SegLstRow, labelled, split_label
from pipeline.evaluation.session_scores import score_session, total
from pipeline.evaluation.speaker_metrics import score_speakers
from pipeline.transcribe.outputs import FORMATS, write_all
from pipeline.transcribe.transcript import ChunkResult, Transcript, TranscriptTurn
from shards.errors import ScoreError
from tests.support.scoring import random_session

NONE = profile("none")
SESSIONS = [random_session(seed, speakers=4, turns=9) for seed in range(1, 40)]
REFERENCE = [row for s in SESSIONS for row in s.reference]
# With times, a speaker without words, text without a speaker, and text that looks like a label.
HYPOTHESIS = [
    row
    for s in SESSIONS
    for i, turn in enumerate(s.hypothesis)
    for row in (
        replace(turn, start=0.1 + 0.75 * i, end=1.2 + 0.75 * i, speaker=None if i == 3 else turn.speaker),
        *([SegLstRow(s.id, "silent", "", 0.1, 0.2), SegLstRow(s.id, None, "note: 的一", 0.1, 0.3)] if i == 0 else []),
    )
]


def figures(reference: list[SegLstRow], hypothesis: list[SegLstRow]) -> tuple[object, ...]:
    """CER, cpCER, saCER with their kinds of errors, and the number of sessions with the right count of speakers."""
    sessions = pair(reference, hypothesis).sessions
    sums = total(score_session(s, NONE, by_name=True) for s in sessions)
    return sums.cer, sums.cpcer, sums.sacer, score_speakers(sessions).count_right


def der(reference: list[SegLstRow], hypothesis: list[SegLstRow]) -> float | None:
    found = score_speakers(pair(reference, hypothesis).sessions).der
    return found and found.percent


@pytest.mark.parametrize("kind", sorted(set(writable()) - {"rttm"}))
def test_every_format_that_is_written_is_read_to_the_same_figures(tmp_path: Path, kind: str):
    write(HYPOTHESIS, tmp_path / "hyp", kind)
    write(REFERENCE, tmp_path / "ref", kind)
    assert figures(REFERENCE, read(tmp_path / "hyp")) == figures(REFERENCE, HYPOTHESIS)
    assert figures(read(tmp_path / "ref", side="reference"), HYPOTHESIS) == figures(REFERENCE, HYPOTHESIS)
    timed = [r for r in HYPOTHESIS if r.speaker]
    write(timed, tmp_path / "timed", kind)
    assert der(REFERENCE, read(tmp_path / "timed")) == pytest.approx(der(REFERENCE, timed), abs=0.05)


def test_rttm_is_read_to_the_same_error_and_the_same_speakers(tmp_path: Path):
    timed = [r for r in HYPOTHESIS if r.speaker and r.text]
    write(timed, tmp_path / "rttm", "rttm")
    assert der(REFERENCE, read(tmp_path / "rttm")) == pytest.approx(der(REFERENCE, timed), abs=0.01)
    assert figures(REFERENCE, read(tmp_path / "rttm"))[3] == figures(REFERENCE, timed)[3]


@pytest.mark.parametrize("kind", ["stm", "rttm"])
def test_a_turn_without_a_speaker_stays_one(tmp_path: Path, kind: str):
    write([SegLstRow("m", None, "x", 0.0, 1.0), SegLstRow("m", "A", "x", 1.0, 2.0)], tmp_path, kind)
    assert [r.speaker for r in read(tmp_path)] == [None, "A"]
    with pytest.raises(ScoreError, match="would write the names '<NA>' and no name"):
        write([SegLstRow("m", "<NA>", "x", 0.0, 1.0)], tmp_path / "refused", kind)


def test_a_speaker_with_an_empty_segment_counts_alike_in_every_format(tmp_path: Path):
    rows = [SegLstRow("m", "A", "x", 0.0, 1.0), SegLstRow("m", "B", "", 1.0, 2.0)]
    one = [SegLstRow("m", "A", "x", 0.0, 1.0)]
    for kind in sorted(set(writable()) - {"rttm"}):
        write(rows, tmp_path / kind, kind)
        back = read(tmp_path / kind)
        assert [r.speaker for r in back] == ["A", "B"], kind
        assert score_speakers(pair(one, back).sessions).count_right == 1, kind
    for name, text in (("m.txt", "A: x\nB:\n"), ("m.jsonl", '{"key": "m", "raw": "A: x\\nB:"}')):
        (tmp_path / name).write_text(text)
        assert score_speakers(pair(one, read(tmp_path / name)).sessions).count_right == 1, name


def transcript(session: str, rows: list[SegLstRow]) -> Transcript:
    """A transcript in two chunks, whose turns overlap in time."""
    turns = [TranscriptTurn(r.speaker, r.start or 0.0, r.end or 0.0, r.text, i % 2) for i, r in enumerate(rows)]
    chunks = [ChunkResult(n, 0.0, 9.0, "", "end", tuple(t for t in turns if t.chunk == n)) for n in (0, 1)]
    return Transcript(f"somewhere/{session}.wav", "model", chunks=chunks)


@pytest.fixture(scope="module")
def transcribed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transcribed")
    for s in SESSIONS:
        made = transcript(s.id, [r for r in HYPOTHESIS if r.session == s.id])
        write_all(made, folder / "all")
        for kind in FORMATS:
            write_all(made, folder / kind, (kind,))
        write_all(made, folder / "two", ("srt", "txt"))
    return folder


@pytest.mark.parametrize("name", [*FORMATS, "all", "two"])
def test_folders_of_speakerlm_transcribe_are_read_to_the_same_figures(transcribed: Path, name: str):
    assert figures(REFERENCE, read(transcribed / name)) == figures(REFERENCE, HYPOTHESIS)


def test_files_of_speakerlm_transcribe_are_read_to_the_same_figures(transcribed: Path):
    for s in SESSIONS:
        reference = [r for r in REFERENCE if r.session == s.id]
        expected = figures(reference, [r for r in HYPOTHESIS if r.session == s.id])
        for file in (transcribed / "all").glob(f"{s.id}.*"):
            assert figures(reference, read(file)) == expected, file.name


def test_the_command_prints_the_same_for_folder_and_files(
    transcribed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    reference = str(write(REFERENCE, tmp_path / "ref", "json")[0].parent)
    printed = []
    for name in ("all", "seglst", "json", "srt", "txt"):
        options = ["--system", "x", "--replicates", "0", "--normaliser", "none"]
        assert main([reference, str(transcribed / name), *options]) == 0
        printed.append([line for line in capsys.readouterr().out.splitlines() if not line.startswith("DER")])
    assert all(p == printed[0] for p in printed)


def test_a_folder_of_other_files_of_the_same_names_is_not_taken_for_a_transcript(tmp_path: Path):
    (tmp_path / "m1.json").write_text('[{"session_id": "m1", "speaker": "A", "words": "x"}]')
    (tmp_path / "m1.txt").write_text("A: other words")
    with pytest.raises(ScoreError, match=r"several formats \(raw, seglst\); name the format with --format"):
        read(tmp_path)


def test_the_option_that_is_recommended_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "x.unknown"
    path.write_text("m1 1 A 0 1 hello\nm2 1 A 0 1 hello\n")
    for arguments in ([str(path), str(path)], ["convert", str(path), str(tmp_path / "out"), "--to", "srt"]):
        assert main(arguments) == 1
        assert "name the format with --format (" in capsys.readouterr().err
        assert main([*arguments, "--format", "stm"]) == 0


def decoded(folder: Path, *modes: str) -> Path:
    folder.mkdir()
    (folder / "decode.json").write_text('{"about": {}}')
    for mode in modes:
        rows = [
            {"key": s.id, "mode": mode, "names": [], "reference": [], "raw": text_of(s.hypothesis)} for s in SESSIONS
        ]
        (folder / f"{mode}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def text_of(rows: tuple[SegLstRow, ...]) -> str:
    return "\n".join(f"{r.speaker}: {r.text}" for r in rows)


def test_a_folder_of_speakerlm_decode_is_read_if_it_holds_one_mode(tmp_path: Path):
    folder = decoded(tmp_path / "one", "no")
    assert read(folder) == read(folder / "no.jsonl")
    with pytest.raises(ScoreError, match=r"no\.jsonl, match\.jsonl: name one of them, or score all"):
        read(decoded(tmp_path / "two", "no", "match"))


names = st.none() | st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=6)


@pytest.mark.parametrize("kind", ["srt", "vtt", "tsv", "json"])
@settings(deadline=None)
@given(rows=st.lists(st.tuples(names, st.text("ab:? <&>；：\u2028", max_size=6)), max_size=5))
def test_any_name_is_read_back_or_refused(tmp_path_factory: pytest.TempPathFactory, kind: str, rows):
    made = [SegLstRow("m", name, text, float(i), i + 0.5) for i, (name, text) in enumerate(rows)]
    folder = tmp_path_factory.mktemp("r")
    try:
        write(made, folder, kind)
    except ScoreError:
        return
    plain = [(" ".join((r.speaker or "").split()) or None, r.text.split(), r.start) for r in made]
    back = read(folder) if made else []
    assert [(" ".join((r.speaker or "").split()) or None, r.text.split(), r.start) for r in back] == plain


@settings(deadline=None)
@given(st.text("ab:? ", max_size=8), st.text("ab:? ", max_size=8))
def test_text_without_a_speaker_never_gets_one(name: str, text: str):
    assert split_label(labelled(None, text)) == (None, " ".join(text.split()))
    assert split_label(labelled("n" * LONGEST_NAME, text)) == ("n" * LONGEST_NAME, " ".join(text.split()))


def test_captions_of_other_programs(tmp_path: Path):
    (tmp_path / "m.srt").write_text(
        "1\n00:00:01,5 --> 00:00:02,000\nMike: hello\nthere\n\n2\n00:00:03.000 --> 00:00:04.000 X1:5\n?\n"
    )
    assert read(tmp_path / "m.srt") == [
        SegLstRow("m", "Mike", "hello there", 1.5, 2.0), SegLstRow("m", None, "?", 3.0, 4.0)
    ]  # fmt: skip
    (tmp_path / "m.vtt").write_text(
        "WEBVTT - x\n\nNOTE made by hand\n\nintro\n00:01.000 --> 00:02.000 align:left\n"
        "<v.loud Mary Ann>hi <i>you</i> &amp; me</v>\n"
    )
    assert read(tmp_path / "m.vtt") == [SegLstRow("m", "Mary Ann", "hi you & me", 1.0, 2.0)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.srt", "hello\n", "m.srt:1: no times of a caption"),
        ("m.vtt", "WEBVTT\n\nhello\n", "m.vtt:3: no times of a caption"),
        ("m.srt", "1\n00:00:03,000 --> 00:00:02,000\nx\n", "before its start"),
        ("m.tsv", "a\tb\n", "m.tsv:1: the columns must be session, start, end, speaker, text"),
        ("m.tsv", "session\tstart\tend\tspeaker\ttext\nm\t0\n", "m.tsv:2: 2 columns, not 5"),
        ("m.tsv", "session\tstart\tend\tspeaker\ttext\nm\tx\t1\tA\thi\n", "m.tsv:2: 'x' is not a time"),
        ("m.json", '[{"session": "m", "words": "x"}]', "entry 0: no turn with session and text"),
        ("m.json", '{"audio": "m.wav", "turns": [5]}', "entry 0: no turn with session and text"),
    ],
)
def test_errors_of_these_readers_name_the_place(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(ScoreError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize("session", ["a/b", "", "a\\b"])
def test_a_session_that_is_no_file_name_is_refused_in_captions(tmp_path: Path, session: str):
    for kind in ("srt", "vtt"):
        with pytest.raises(ScoreError, match="files are named by session"):
            write([SegLstRow(session, "A", "x", 0.0, 1.0)], tmp_path, kind)
