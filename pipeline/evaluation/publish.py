"""From decoded folders to everything a reader wants: scores.json, tables and the HTML report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.decoded_rows import decoded_files, decoded_session, read_decoded, read_description
from pipeline.evaluation.normalize import profile
from pipeline.evaluation.report import Audio, ScoredSet, analyse_sessions, names_table, write_report
from pipeline.evaluation.result_tables import MODE_NAMES, TrainingFacts, all_tables, write_tables
from pipeline.evaluation.scores import (
    DEFAULT_PROFILE,
    ScoreRow,
    score_decoded,
    write_scores,
)


def publish(
    decoded: Sequence[Path | str],
    out: Path | str,
    runs: Sequence[Path | str] = (),
    title: str = "Scores",
    normaliser: str = DEFAULT_PROFILE,
    show: int = 10,
    audio: Audio | None = None,
    embed: int = 2,
) -> list[ScoreRow]:
    """Score decoded folders and write ``scores.json``, ``report.html``, ``tables.md`` and a CSV and JSON a table.

    Args:
        decoded: folders that the decoder wrote, one a run and test set.
        out: folder to write into.
        runs: run folders whose loss curves the report shows.
        show: sessions of each mode shown with alignment, for the last stage of each test set.
        audio: gives a clip's FLAC by key.
        embed: clips of each mode whose audio is embedded.

    Returns:
        The rows of ``scores.json``.
    """
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    folders = [Path(d) for d in decoded]
    rows = [row for folder in folders for row in score_decoded(folder, normaliser=normaliser)]
    about = {}
    for folder in folders:
        said = read_description(folder)
        if "run" in said:
            about[said["run"]] = TrainingFacts(said.get("extractor"), said.get("hours"))
    write_scores(rows, target / "scores.json")
    sets = [s for folder in _last_stages(folders) for s in _sets(folder, normaliser, show, audio, embed)]
    tables = [*all_tables(rows, about), *filter(None, [names_table(sets)])]
    write_tables(tables, target)
    write_report(target / "report.html", rows, runs, sets, title=title, about=about)
    return rows


def _last_stages(folders: Sequence[Path]) -> list[Path]:
    """Of each test set the folders of the highest stage: earlier ones are in the tables."""
    stage_of = {folder: int(read_description(folder).get("stage") or 0) for folder in folders}
    last: dict[str, int] = {}
    for folder in folders:
        name = _test_set(folder)
        last[name] = max(last.get(name, 0), stage_of[folder])
    return [folder for folder in folders if stage_of[folder] == last[_test_set(folder)]]


def _test_set(folder: Path) -> str:
    return str(read_description(folder).get("test_set") or folder)


def _sets(folder: Path, normaliser: str, show: int, audio: Audio | None, embed: int) -> list[ScoredSet]:
    said = read_description(folder)
    sets = []
    for path in decoded_files(folder):
        clips = read_decoded(path)
        if not clips:
            continue
        mode = clips[0]["mode"]
        extra = path.stem.partition("-")[2]
        title = f"{said.get('test_set') or folder.name}, {MODE_NAMES[mode]}" + (f" {extra}" if extra else "")
        if said:
            title += f", {said['run']}"
        sessions = [decoded_session(c) for c in clips]
        by_name = mode in ("match", "over")
        sets.append(analyse_sessions(sessions, title, profile(normaliser), mode, by_name, show, audio, embed))
    return sets


def dataset_audio(datasets: Sequence[str]) -> Audio:
    """Clip key → its FLAC in one of these packed datasets. The places are looked up once, from the indexes."""
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
