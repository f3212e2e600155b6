"""Kaldi data folder: text, utt2spk and, if present, segments and spk2gender.

Sessions are the recordings of ``segments``; without that file each utterance is its own session.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.evaluation.files import read_text, seconds
from pipeline.evaluation.records import SegLstRow, checked
from shards.errors import ScoreError
from shards.sample import gender_of

FOLDER = "text"


def read(folder: Path) -> list[SegLstRow]:
    """Read a data folder.

    Raises:
        ScoreError: a file is missing or damaged, or an utterance lacks an entry in one of them.
    """
    texts = _table(folder / "text")
    speakers = _table(folder / "utt2spk")
    if unknown := [u for u, speaker in speakers.items() if not speaker]:
        raise ScoreError(f"{folder / 'utt2spk'}: utterance {unknown[0]} has no speaker")
    if missing := [u for u in texts if u not in speakers]:
        raise ScoreError(f"{folder / 'utt2spk'}: utterance {missing[0]} of text is missing, {len(missing)} in all")
    times = _table(folder / "segments") if (folder / "segments").exists() else {}
    genders = _table(folder / "spk2gender") if (folder / "spk2gender").exists() else {}
    out = []
    for utterance, text in texts.items():
        if not times:
            speaker = speakers[utterance].strip()
            out.append(SegLstRow(utterance, speaker, text, gender=gender_of(genders.get(speaker))))
            continue
        if utterance not in times:
            raise ScoreError(f"{folder / 'segments'}: utterance {utterance} of text is missing")
        try:
            recording, *two = times[utterance].split()[:3]
            start, end = (seconds(t, f"{folder / 'segments'}: {utterance}") for t in two)
        except ValueError as e:
            raise ScoreError(f"{folder / 'segments'}: {utterance} has no recording, start and end") from e
        speaker = speakers[utterance].strip()
        row = SegLstRow(recording, speaker, text, start, end, gender_of(genders.get(speaker)))
        out.append(checked(row, folder / "segments"))
    return out


def _table(path: Path) -> dict[str, str]:
    """Read ``key rest-of-line`` lines."""
    rows: dict[str, str] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        key, *rest = line.strip().split(maxsplit=1)
        if key in rows:
            raise ScoreError(f"{path}:{number}: {key} occurs twice")
        rows[key] = rest[0] if rest else ""
    return rows
