"""What commit 22def17 wrote is read by today's code, with the same figures: ``tests/data/make_v0_1.py`` made it."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.data.make_v0_1 import tone
from tests.support.command_lines import name_of, options_of, parse, split
from tests.support.distributed import ROOT, run_distributed

DATA = ROOT / "tests" / "data"
LINES = [line for line in (DATA / "v0.1-commands.txt").read_text().splitlines() if not line.startswith("#")]
OPTIONS: dict[str, dict[str, list[str] | None]] = json.loads((DATA / "v0.1-options.json").read_text())
# Modules that were called by their names and are in other folders now.
RENAMED = {
    "-m pipeline.data.report": "-m pipeline.preflight.epoch_report",
    "-m pipeline.evaluation.generate": "-m pipeline.decode.test_set",
    "-m pipeline.learning": "-m pipeline.standins",
    "-m pipeline.learning.packaged": "-m pipeline.standins.public_parts",
    "-m pipeline.nodecheck": "-m pipeline.ranks.nodecheck",
}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive's folder; tests that write to it copy what they change."""
    folder = tmp_path_factory.mktemp("v0.1")
    with tarfile.open(DATA / "v0.1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def expected(old: Path) -> dict[str, Any]:
    return json.loads((old / "expected.json").read_text())


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --------------------------------------------------------------------------------------------------------------- files


def test_dataset_is_verified_and_read(old: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    from shards.cli import main
    from shards.dataset.dataset import open_dataset
    from shards.dataset.reader import read_sample

    assert main(["verify", str(old / "data")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["faults"] == 0
    dataset = open_dataset(old / "data")
    assert dataset.fingerprint() == expected["fingerprint"]
    assert dataset.speakers is not None
    assert list(dataset.speakers.ids) == expected["speakers"]
    assert dataset.speakers.vectors.shape == (len(expected["speakers"]), 8)
    samples = [read_sample(dataset, i, row) for i, s in enumerate(dataset.shards) for row in range(s.samples)]
    assert sorted(s.key for s in samples) == [f"toy-{i}" for i in range(10)]
    assert all(s.embeddings is not None and s.embeddings.shape == (len(s.speakers), 8) for s in samples)


def test_token_lengths_are_read_not_counted_again(old: Path, expected: dict[str, Any]) -> None:
    from pipeline.data.lengths import missing_lengths
    from pipeline.prompts import PromptTokenizer
    from shards.dataset.dataset import open_dataset

    tokenizer = PromptTokenizer.from_folder(old / "base" / "llm")
    assert missing_lengths(open_dataset(old / "data"), tokenizer.hash) == []


def _resume(folder: str) -> int:
    """Continue the stopped run to its end; print the keys of the steps that its plan state leads to."""
    os.chdir(folder)
    from pipeline.model.build import load_tokenizer
    from pipeline.ranks.launch import init_distributed
    from pipeline.recipe.load import load_recipe
    from pipeline.train.run_stage import run_stage
    from pipeline.train.stage_data import StageData

    recipe = load_recipe(Path("stage4-stopped/config.yaml"))
    checkpoint = Path("stage4-stopped/checkpoints/step-00000002/manifest.json")
    plan = json.loads(checkpoint.read_text())["plan"]
    assert run_stage(recipe) == 0
    steps = StageData(recipe, init_distributed(60), load_tokenizer(recipe.model)).train(plan)
    print("keys", json.dumps([[list(b.keys) for b in next(steps).micro_batches] for _ in range(2)]))
    return 0


def test_training_resumes_from_the_checkpoint(old: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(old, folder)
    (output,) = run_distributed(_resume, 1, folder=str(folder))
    assert "step-00000002 (step 2)" in output
    assert [json.loads(line[5:]) for line in output.splitlines() if line.startswith("keys ")] == [expected["keys"][2:]]
    log = rows(folder / "stage4-stopped" / "train.jsonl")
    assert [r["step"] for r in log] == [1, 2, 3, 4]
    assert [r["loss"] for r in log] == pytest.approx(expected["losses"], rel=1e-5)
    done = [json.loads((folder / run / "done").read_text()) for run in ("stage4", "stage4-stopped")]
    assert done[0].keys() == done[1].keys()
    assert done[0]["bases"] == done[1]["bases"]


def _start_from_stage3(folder: str) -> int:
    """A new stage 4 whose ``init_from`` is the finished stage 3."""
    os.chdir(folder)
    from pipeline.recipe.load import load_recipe
    from pipeline.train.run_stage import run_stage

    recipe = load_recipe(Path("stage4/config.yaml"))
    assert recipe.init_from == "stage3"
    recipe.output = "started"
    return run_stage(recipe, 1)


def test_a_stage_starts_from_the_finished_run_before_it(old: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "started"
    shutil.copytree(old, folder)
    run_distributed(_start_from_stage3, 1, folder=str(folder))
    assert [r["loss"] for r in rows(folder / "started" / "train.jsonl")] == pytest.approx(expected["losses"][:1], 1e-5)


def test_exported_model_gives_the_recorded_logits(old: Path, expected: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModel, AutoProcessor

    folder = str(old / "export")
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    given = {name: torch.tensor(value) for name, value in expected["inputs"].items()}
    with torch.no_grad():
        embeds = model.embed(waveforms=torch.tensor(tone(12000))[None], **given)
        logits = model.llm(inputs_embeds=embeds[None], use_cache=False).logits[0, -1]
    assert torch.allclose(logits, torch.tensor(expected["logits"]), atol=1e-5)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    ids = model.generate(**processor([tone(12000)], registered=None), max_new_tokens=3)
    assert len(processor.batch_decode(ids)) == 1


@pytest.mark.parametrize("merge", [False, True])
def test_finished_run_exports_as_before(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merge: bool
) -> None:
    from safetensors.torch import load_file

    from pipeline.export.cli import main

    monkeypatch.chdir(old)
    assert main(["stage4", str(tmp_path / "out"), *["--merge"] * merge]) == 0
    if not merge:
        a, b = (load_file(f / "model.safetensors") for f in (old / "export", tmp_path / "out"))
        assert a.keys() == b.keys()
        assert all((a[name] == b[name]).all() for name in a)


@pytest.mark.parametrize("folder", ["decoded", "edited"])
def test_decoded_answers_score_as_before(old: Path, folder: str) -> None:
    from pipeline.evaluation.scores import score_decoded

    scores = json.loads(json.dumps(score_decoded(old / folder, normaliser="paper-zh", replicates=100)))
    before = json.loads((old / folder / "scores.json").read_text())
    profiles = [{r.pop("normaliser") for r in rows} for rows in (scores, before)]
    assert profiles == [{"paper-zh-v2"}, {"paper-zh-v1"}]  # a newer version that reads these texts alike
    assert scores == before
    assert {r["mode"] for r in scores} == {"asr", "no", "match", "over"}


def test_decoding_continues_a_folder_of_before(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings in its ``decode.json`` are still those of the same command, and so is every answer.

    Rows of before also hold a parsed ``hypothesis``, which is not stored any more: scoring parses ``raw``.
    """
    from pipeline.decode.test_set import main

    shutil.copytree(old, tmp_path / "all")
    monkeypatch.chdir(tmp_path / "all")
    (Path("decoded") / "done").unlink()
    options = ["--modes", "asr,no,match,over", "--n-ov", "1-2", "--max-new-tokens", "8"]
    assert main(["stage4", "data", "decoded", *options]) == 0
    assert main(["stage4", "data", "again", *options]) == 0
    for name in ("asr", "no", "match", "over"):
        before = (old / "decoded" / f"{name}.jsonl").read_bytes()
        assert (Path("decoded") / f"{name}.jsonl").read_bytes() == before
        fields = [
            {k: v for k, v in row.items() if k != "hypothesis"} for row in rows(old / "decoded" / f"{name}.jsonl")
        ]
        assert rows(Path("again") / f"{name}.jsonl") == fields


# -------------------------------------------------------------------------------------------------------- command lines


@pytest.mark.parametrize("line", LINES)
def test_command_line_still_parses(line: str) -> None:
    parse(line, ROOT, RENAMED)


def test_modules_keep_the_names_by_which_they_are_run() -> None:
    """A renamed module is listed as such, and nothing is listed that still exists."""
    modules = {split(line)[0][3:] for line in LINES if split(line)[0].startswith("-m ")}
    gone = {f"-m {m}" for m in modules if not _exists(m)}
    assert gone == set(RENAMED)
    assert all(_exists(new[3:]) for new in RENAMED.values())


@pytest.mark.parametrize("command", OPTIONS)
def test_every_option_is_still_there(command: str) -> None:
    line = next(line for line in LINES if name_of(line) == command)
    now = options_of(parse(line, ROOT, RENAMED).parser)
    before = OPTIONS[command]
    assert before.keys() <= now.keys()
    lost = {o: set(c) - set(now[o] or c) for o, c in before.items() if c}
    assert not any(lost.values()), lost


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
