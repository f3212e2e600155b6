"""Score decoded folders and write scores.json, tables and the HTML report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.evaluation.breakdown import Measured, breakdown, facts_of
from pipeline.evaluation.decoded_folder import DecodedFile, DecodedFolder
from pipeline.evaluation.metrics import load_metrics
from pipeline.evaluation.pairwise import pairs
from pipeline.evaluation.report import (
    Audio,
    ScoredSet,
    analyse_sessions,
    last_first,
    names_table,
    with_other,
    write_report,
)
from pipeline.evaluation.result_tables import MODE_NAMES, TrainingFacts, all_tables, write_tables
from pipeline.evaluation.scores import (
    ScoredFile,
    ScoredFolder,
    ScoreRow,
    folder_rows,
    score_folder,
    write_scores,
)
from pipeline.evaluation.script import AUTO

logger = logging.getLogger(__name__)


def publish(
    decoded: Sequence[Path | str],
    out: Path | str,
    runs: Sequence[Path | str] = (),
    title: str = "Scores",
    normaliser: str = AUTO,
    show: int = 10,
    audio: Audio | None = None,
    embed: int = 2,
    metrics: Sequence[str] = (),
    language: str | None = None,
) -> list[ScoreRow]:
    """Score decoded folders; write ``scores.json``, ``report.html``, ``tables.md``, and CSV and JSON of each table.

    Args:
        decoded: folders that the decoder wrote, one per run and test set.
        out: folder to write into.
        runs: run folders whose loss curves the report shows.
        show: sessions of each mode shown with alignment, for the last stage of each test set.
        audio: returns a clip's FLAC by key.
        embed: clips of each mode whose audio is embedded.
        normaliser: a profile, or ``auto``: that of the language, or of the script of each folder's reference.
        metrics: further metrics by name.
        language: code of the reference's language, if stated.

    Returns:
        The rows of ``scores.json``.
    """
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    further = load_metrics(metrics)
    folders = [score_folder(Path(d), normaliser, further, language) for d in decoded]
    measured = [m for folder in folders for m in _measured(folder)]
    _find_missing(measured)
    rows = [m.row for m in measured]
    described = [f.decoded.description for f in folders if "run" in f.decoded.description]
    about = {d["run"]: TrainingFacts(d.get("extractor"), d.get("hours")) for d in described}
    write_scores(rows, target / "scores.json")
    last = _last_stages(folders)
    sets = [s for folder in last for s in _sets(folder, last, show, audio, embed)]
    tables = [*all_tables(rows, about), *filter(None, [names_table(sets)])]
    compared = pairs(last_first(measured))
    write_tables(tables, target, [t for t in (breakdown(measured), compared) if t])
    write_report(
        target / "report.html", rows, runs, sets, title=title, about=about, measured=measured, compared=compared
    )
    return rows


def _measured(folder: ScoredFolder) -> list[Measured]:
    """Return the rows of a folder with the scores and facts of their clips."""
    out = []
    for row, file in zip(folder_rows(folder), folder.files, strict=True):
        clips, sessions = file.decoded.clips, file.decoded.sessions
        facts = tuple(facts_of(s, clip) for s, clip in zip(sessions, clips, strict=True))
        out.append(Measured(row, file.scores, facts))
    return out


def _find_missing(measured: Sequence[Measured]) -> None:
    """Give each row the keys of the clips that other rows of its test set have and it lacks; warn of them."""
    clips: dict[str, set[str]] = {}
    for m in measured:
        clips.setdefault(m.row["test_set"], set()).update(s.id for s in m.scores)
    for m in measured:
        m.row["missing"] = sorted(clips[m.row["test_set"]] - {s.id for s in m.scores})
        if m.row["missing"]:
            count, whole = len(m.row["missing"]), len(clips[m.row["test_set"]])
            logger.warning(
                "%s, %s: %d of %d clips are missing, so its figures are not those of the same clips",
                m.row["test_set"], m.label, count, whole,
            )  # fmt: skip


def _last_stages(folders: Sequence[ScoredFolder]) -> list[ScoredFolder]:
    """Return the folders of other systems, and of the highest stage of each test set: earlier ones are in tables."""
    last: dict[str, int] = {}
    for f in folders:
        last[_test_set(f.decoded)] = max(last.get(_test_set(f.decoded), 0), f.decoded.stage or 0)
    return [f for f in folders if f.decoded.stage in (None, last[_test_set(f.decoded)])]


def _test_set(folder: DecodedFolder) -> str:
    return str(folder.test_set or folder.path)


def _sets(
    folder: ScoredFolder, others: Sequence[ScoredFolder], show: int, audio: Audio | None, embed: int
) -> list[ScoredSet]:
    out = []
    for file in folder.files:
        found = analyse_sessions(
            file.decoded.sessions,
            _title(folder.decoded, file.decoded),
            folder.profile,
            file.decoded.mode,
            show=show,
            audio=audio,
            embed=embed,
            scores=file.scores,
        )
        found = replace(found, name=_system(folder.decoded, file.decoded))
        if second := _second(folder, file, others):
            theirs, other = second
            mode = other.decoded.mode
            by_name = mode in ("match", "over")
            name = _system(theirs.decoded, other.decoded)
            found = with_other(found, name, other.decoded.sessions, folder.profile, mode, by_name)
        out.append(found)
    return out


def _second(
    folder: ScoredFolder, file: ScoredFile, others: Sequence[ScoredFolder]
) -> tuple[ScoredFolder, ScoredFile] | None:
    """Return what is drawn below a file in timelines: another system in its mode, else the next mode of its folder."""
    for theirs in others:
        if theirs is not folder and _test_set(theirs.decoded) == _test_set(folder.decoded):
            for other in theirs.files:
                if other.decoded.path.stem == file.decoded.path.stem:
                    return theirs, other
    named_modes = [f for f in folder.files if f.decoded.mode != "asr"]
    if file not in named_modes or len(named_modes) < 2:
        return None
    return folder, named_modes[(named_modes.index(file) + 1) % len(named_modes)]


def _system(folder: DecodedFolder, file: DecodedFile) -> str:
    """Return the name of a file's system in timelines."""
    run = folder.description.get("run") or folder.path.name
    return f"{run}, {MODE_NAMES[file.mode]}"


def _title(folder: DecodedFolder, file: DecodedFile) -> str:
    n_ov = file.path.stem.partition("-")[2]
    title = f"{folder.test_set or folder.path.name}, {MODE_NAMES[file.mode]}" + (f" {n_ov}" if n_ov else "")
    return f"{title}, {folder.description['run']}" if folder.description else title


def dataset_audio(datasets: Sequence[str]) -> Audio:
    """Return a function: clip key → its FLAC in one of these packed datasets. The indexes are read once."""
    from shards.dataset.dataset import open_dataset
    from shards.dataset.reader import read_sample

    places = {}
    for url in datasets:
        dataset = open_dataset(url)
        for shard in range(len(dataset.shards)):
            keys = dataset.index(shard).column("key").to_pylist()
            places.update({key: (dataset, shard, row) for row, key in enumerate(keys)})

    def find(key: str) -> bytes | None:
        return read_sample(*places[key]).audio if key in places else None

    return find
