"""Tables of `make reason`: Speaker-Reasoner beside SpeakerLM on the same clips, and labels with and without the cache.

SpeakerLM writes no times: its turns have those that `speakerlm-transcribe` estimates from voices.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from pipeline.evaluation.records import SegLstRow, SessionTranscript
    from pipeline.evaluation.session_scores import SessionScore

METRICS = ("der", "jer", "tcp-cer", "speaker-count", "boundary-error", "gender-accuracy")
COLUMNS = ("der", "jer", "cer", "cpcer", "tcp-cer", "speaker-count", "count error", "boundary-error, s")
SYSTEMS = {4: "SpeakerLM, times estimated", 12: "reasoner, turns (R2)", 13: "reasoner, cache (R3)"}
WELL_FORMED = 95.0  # percent of first replies, at least
_NUMBER = re.compile(r"\d+$")


@dataclass(frozen=True)
class Compared:
    """Folders of transcripts."""

    dialogues: Mapping[tuple[int, str], Path]  # (stage, test set) → decoded folder
    transcripts: Mapping[str, Path]  # test set → SpeakerLM's transcripts of its clips
    cached: Path  # transcripts of two-minute conversations with the cache,
    uncached: Path  # and without
    long: Path  # manifest of these conversations


def report(compared: Compared, out: Path) -> dict[str, Any]:
    """Score everything; write scores.json and tables.md; print the tables. Returns the content of scores.json."""
    from pipeline.evaluation.figure_names import named
    from pipeline.evaluation.scores import markdown

    clips, pairs = _clips(compared)
    labels = labels_held(compared)
    found = {"clips": clips, "pairs": pairs, "labels": labels}
    lines = [["test set", "system", *COLUMNS, "genders", "well-formed"]]
    for row in clips:
        cells = [_cell(row[c]) for c in (*COLUMNS, "gender-accuracy", "well-formed")]
        lines.append([row["test_set"], row["system"], *cells])
    text = markdown(lines, right_from=2)
    text += "\nPercent, but for the count's mean absolute error in speakers and the mean error of bounds in seconds. "
    text += "Well-formed: first replies that pass all guards.\n\n" + "\n".join(_said(p) for p in pairs)
    text += "\n\n" + _labels_said(labels) + "\n\n" + aims(found)
    text = named(text, {"mixed"})
    (out / "scores.json").write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (out / "tables.md").write_text(text, encoding="utf-8")
    print("\n" + text)
    return found


def aims(found: Mapping[str, Any]) -> str:
    """Return what the chain should show as a table: met or not, with the last stage's figures."""
    from pipeline.evaluation.scores import markdown

    rows = {(r["test_set"], r["stage"]): r for r in found["clips"]}
    lines = [["test set", "aim", "reached", "met"]]
    for test, stage in rows:
        if stage != 13:
            continue
        ours, theirs = rows[test, 13], rows[test, 4]
        der, count, formed = ours["der"], ours["speaker-count"], ours["well-formed"]
        below = None if der is None or theirs["der"] is None else der < theirs["der"]
        lines += [
            [test, "DER below SpeakerLM's", f"{_cell(der)} against {_cell(theirs['der'])}", _met(below)],
            [test, "speaker count right, not below", f"{_cell(count)} against {_cell(theirs['speaker-count'])}"]
            + [_met(count >= theirs["speaker-count"])],
            [test, f"first replies well-formed, ≥ {WELL_FORMED:g}", _cell(formed), _met(formed >= WELL_FORMED)],
        ]
    labels = found["labels"]
    reached = f"{_cell(labels['with'])} against {_cell(labels['without'])}"
    lines.append(["two minutes", "labels held more often with the cache", reached, _met(labels["low"] > 0)])
    return markdown(lines, right_from=4)


def _clips(compared: Compared) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the table, and the reasoner's DER and cpCER against SpeakerLM's."""
    from pipeline.decode.dialogues import well_formed
    from pipeline.evaluation.decoded_folder import read_folder

    rows, pairs = [], []
    for test, folder in compared.transcripts.items():
        scored: dict[int, list[SessionScore]] = {}
        for stage in sorted(s for s, t in compared.dialogues if t == test):
            (file,) = read_folder(compared.dialogues[stage, test]).files
            if 4 not in scored:
                theirs = [replace(s, hypothesis=_heard(folder, s.id)) for s in file.sessions]
                scored[4] = _scores(theirs)
                rows.append(_row(test, 4, theirs, scored[4], None))
            scored[stage] = _scores(file.sessions)
            rows.append(_row(test, stage, file.sessions, scored[stage], well_formed(file.clips)))
        for figure in ("der", "cpcer"):
            a, b = (_counts(scored[stage], figure) for stage in (4, 13))
            if a is not None and b is not None:
                pairs.append({"test_set": test, "figure": figure, **_difference(a, b)})
    return rows, pairs


def _heard(folder: Path, key: str) -> tuple[SegLstRow, ...]:
    """Turns of a clip that `speakerlm-transcribe` wrote, by the model's own labels."""
    from pipeline.evaluation.records import SegLstRow

    turns = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))["turns"]
    return tuple(SegLstRow(key, t["written"], t["text"], t["start"], t["end"]) for t in turns)


def _scores(sessions: Sequence[SessionTranscript]) -> list[SessionScore]:
    from pipeline.evaluation.metrics import load_metrics
    from pipeline.evaluation.script import choose_profile
    from pipeline.evaluation.session_scores import score_session

    metrics = load_metrics(METRICS)
    profile, _ = choose_profile("mixed", ())
    return [score_session(s, profile, metrics=metrics) for s in sessions]


def _row(
    test: str, stage: int, sessions: Sequence[SessionTranscript], scores: Sequence[SessionScore], formed: float | None
) -> dict[str, Any]:
    from pipeline.evaluation.session_scores import total
    from pipeline.evaluation.speaker_metrics import voices

    sums = total(scores)
    figures = {name: None if rate is None else rate.figure for name, rate in sums.metrics.items()}
    apart = [abs(len(voices(s.reference)) - len(voices(s.hypothesis))) for s in sessions]
    return {
        "test_set": test,
        "stage": stage,
        "system": SYSTEMS[stage],
        "clips": len(scores),
        **figures,
        "gender-accuracy": None if stage == 4 else figures["gender-accuracy"],  # SpeakerLM says none
        "cer": sums.cer.percent,
        "cpcer": sums.cpcer.percent if sums.cpcer else None,
        "count error": sum(apart) / len(apart),
        "well-formed": formed,
    }


def _counts(scores: Sequence[SessionScore], figure: str) -> list[tuple[float, float]] | None:
    """Errors and length of each clip, None if it is not defined for all."""
    if figure == "cpcer":
        edits = [s.cpcer for s in scores]
        return None if None in edits else [(e.errors, e.reference) for e in edits if e is not None]
    rates = [s.metrics[figure] for s in scores]
    return None if None in rates else [(r.errors, r.length) for r in rates if r is not None]


def _difference(a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]]) -> dict[str, float]:
    from pipeline.evaluation.bootstrap import paired_difference

    return dict(zip(("difference", "low", "high"), paired_difference(a, b), strict=True))


def labels_held(compared: Compared) -> dict[str, Any]:
    """Return how often a person keeps the label, in percent: with the cache, without, and the difference.

    Without the cache a label is the model's of the chunk, with it the recording's; both are compared by number.
    """
    from pipeline.evaluation.records import SegLstRow
    from shards.manifests.manifest import read_manifest

    counts: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
    for recording in read_manifest(compared.long):
        turns = [SegLstRow(recording.key, s.speaker, s.text, s.start, s.end) for s in recording.segments]
        for how, folder, field in (("with", compared.cached, "speaker"), ("without", compared.uncached, "written")):
            counts[how].append(_held(folder / f"{recording.key}.json", turns, field))
    shares = {how: 100 * sum(h for h, _ in c) / max(1, sum(n for _, n in c)) for how, c in counts.items()}
    pairs = int(sum(n for _, n in counts["with"]))
    return {**shares, "pairs": pairs, **_difference(counts["without"], counts["with"])}


def _held(path: Path, reference: Sequence[SegLstRow], field: str) -> tuple[float, float]:
    from pipeline.evaluation.label_consistency import LabelledTurn, held_labels

    content = json.loads(path.read_text(encoding="utf-8"))
    chunks = []
    for chunk in content["chunks"]:
        mine = [t for t in content["turns"] if t["chunk"] == chunk["number"]]
        heard = [LabelledTurn(_NUMBER.findall(t[field])[0], t["start"], t["end"]) for t in mine]
        chunks.append((chunk["start"], chunk["end"], heard))
    return held_labels(reference, chunks)


def _said(pair: Mapping[str, Any]) -> str:
    figure = {"der": "DER", "cpcer": "cpCER"}[pair["figure"]]
    return f"{pair['test_set']}: {figure} of the reasoner (R3) minus SpeakerLM's: {_apart(pair)}"


def _labels_said(labels: Mapping[str, Any]) -> str:
    return (
        f"Two-minute conversations: a person keeps the label in the next chunk in {labels['with']:.1f} % of "
        f"{labels['pairs']} pairs with the cache, in {labels['without']:.1f} % without: {_apart(labels)}"
    )


def _apart(pair: Mapping[str, Any]) -> str:
    return f"{pair['difference']:+.1f} points [{pair['low']:+.1f}, {pair['high']:+.1f}]"


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _met(met: bool | None) -> str:
    return "–" if met is None else "met" if met else "not met"
