"""Score decoded folders and write scores.json, tables and the HTML report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.decoded_folder import DecodedFile, DecodedFolder
from pipeline.evaluation.metrics import load_metrics
from pipeline.evaluation.normalize import Profile, profile
from pipeline.evaluation.report import Audio, ScoredSet, analyse_sessions, names_table, write_report
from pipeline.evaluation.result_tables import MODE_NAMES, TrainingFacts, all_tables, write_tables
from pipeline.evaluation.scores import (
    DEFAULT_PROFILE,
    ScoredFolder,
    ScoreRow,
    folder_rows,
    score_folder,
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
    metrics: Sequence[str] = (),
) -> list[ScoreRow]:
    """Score decoded folders; write ``scores.json``, ``report.html``, ``tables.md``, and CSV and JSON of each table.

    Args:
        decoded: folders that the decoder wrote, one per run and test set.
        out: folder to write into.
        runs: run folders whose loss curves the report shows.
        show: sessions of each mode shown with alignment, for the last stage of each test set.
        audio: returns a clip's FLAC by key.
        embed: clips of each mode whose audio is embedded.
        metrics: further metrics by name.

    Returns:
        The rows of ``scores.json``.
    """
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    chosen = profile(normaliser)
    further = load_metrics(metrics)
    folders = [score_folder(Path(d), chosen, further) for d in decoded]
    rows = [row for folder in folders for row in folder_rows(folder, chosen)]
    described = [f.decoded.description for f in folders if "run" in f.decoded.description]
    about = {d["run"]: TrainingFacts(d.get("extractor"), d.get("hours")) for d in described}
    write_scores(rows, target / "scores.json")
    sets = [s for folder in _last_stages(folders) for s in _sets(folder, chosen, show, audio, embed)]
    tables = [*all_tables(rows, about), *filter(None, [names_table(sets)])]
    write_tables(tables, target)
    write_report(target / "report.html", rows, runs, sets, title=title, about=about)
    return rows


def _last_stages(folders: Sequence[ScoredFolder]) -> list[ScoredFolder]:
    """Return the folders of the highest stage of each test set: earlier ones are in the tables."""
    last: dict[str, int] = {}
    for f in folders:
        last[_test_set(f.decoded)] = max(last.get(_test_set(f.decoded), 0), f.decoded.stage or 0)
    return [f for f in folders if (f.decoded.stage or 0) == last[_test_set(f.decoded)]]


def _test_set(folder: DecodedFolder) -> str:
    return str(folder.test_set or folder.path)


def _sets(folder: ScoredFolder, chosen: Profile, show: int, audio: Audio | None, embed: int) -> list[ScoredSet]:
    return [
        analyse_sessions(
            file.decoded.sessions,
            _title(folder.decoded, file.decoded),
            chosen,
            file.decoded.mode,
            show=show,
            audio=audio,
            embed=embed,
            scores=file.scores,
        )
        for file in folder.files
    ]


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
