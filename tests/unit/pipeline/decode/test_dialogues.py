"""Decoding a packed test set with a Speaker-Reasoner run: rows, scores with the model's own times, continuing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import pipeline.reasoner.engine
from pipeline.decode.dialogues import dialogues_of, well_formed
from pipeline.decode.jobs import default_modes
from pipeline.decode.test_set import main
from pipeline.dialogue.lines import Line
from pipeline.evaluation.score_decoded import publish
from pipeline.reasoner.loop import LoopLimits, Request
from pipeline.recipe.load import load_recipe
from pipeline.stages import Task
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_sample
from shards.errors import ConfigError, ScoreError
from tests.support.datasets import make_dataset
from tests.support.decoding import decode_with
from tests.support.training import DIM, finished_run, make_parts


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and a run of stage 12 that has finished without learning anything."""
    folder = tmp_path_factory.mktemp("parts")
    make_parts(folder)
    make_dataset(folder / "test", samples=5, speakers_per_sample=(2, 3), dim=DIM, seed=9)
    config = finished_run(folder) / "config.yaml"
    config.write_text(config.read_text().replace("stage: 4", "stage: 12"))
    return folder


class Oracle:
    """Plays the engine: the reference of a clip, clip 0 cut after its first observation, clip 1 without any reply."""

    def __init__(self, folder: Path, die_at: int = 10**6) -> None:
        dataset = open_dataset(str(folder))
        rows = [(s, r) for s in range(len(dataset.shards)) for r in range(dataset.index(s).num_rows)]
        samples = sorted((read_sample(dataset, s, r) for s, r in rows), key=lambda sample: sample.key)
        self.samples = {sample.key: sample for sample in samples}
        self.keys, self.asked, self._die_at = list(self.samples), 0, die_at

    def answer(self, requests: Sequence[Request]) -> list[str | None]:
        self.asked += 1
        if self.asked == self._die_at:
            raise KeyboardInterrupt
        return [self._reply(r) for r in requests]

    def _reply(self, request: Request) -> str:
        sample = self.samples[request.clip.key]
        order = list(dict.fromkeys(s.speaker for s in sample.segments))
        lines = [
            Line(order.index(s.speaker) + 1, None, round(s.start * 100), round(s.end * 100), s.text)
            for s in sample.segments
        ]
        first, number = lines[0], self.keys.index(sample.key)
        box = f"<box>[{first.start / 100}, {first.end / 100}]</box>"
        if number == 1:
            return "I hear people"
        if not request.replies:
            return f"<think>People speak.</think>{box}"
        if number == 0:
            return f"<think>\n{first}\n</think>{box}" if len(request.replies) == 1 else "<think>\n"
        return f"<think>\n{first}\n</think><answer>\n" + "".join(f"{line}\n" for line in lines) + "</answer>"

    def release(self, key: str) -> None:
        """Nothing is kept."""


def rows(path: Path) -> dict[str, dict]:
    return {r["key"]: r for r in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


def run(parts: Path, out: Path, **options):
    settings = {"batch": 2, "attempts": 4, **options}
    return decode_with(parts / "run", parts / "test", out, **settings)


@pytest.fixture
def oracle(parts: Path, monkeypatch: pytest.MonkeyPatch) -> Oracle:
    made = Oracle(parts / "test")
    monkeypatch.setattr(pipeline.reasoner.engine, "SpeakerLMEngine", lambda *_, **__: made)
    return made


def test_rows_have_times_reason_and_repairs_and_are_scored_with_them(parts: Path, oracle: Oracle, tmp_path: Path):
    timing = run(parts, tmp_path / "out")["no"]
    assert timing.clips == 5
    found = rows(tmp_path / "out" / "no.jsonl")
    cut, nothing, *whole = (found[key] for key in oracle.keys)
    assert {(r["stop"], r["turns"], r["attempts"], r["at_once"]) for r in whole} == {("answer", 2, 2, 2)}
    assert all(r["covered"] == pytest.approx(r["duration"], abs=0.01) for r in whole)
    assert cut["stop"] == nothing["stop"] == "no valid reply in 4 attempts"
    assert (cut["turns"], cut["attempts"], nothing["turns"]) == (2, 6, 0)
    assert cut["raw"].startswith("<answer>\nSpeaker 1 [")
    assert len(cut["replies"]) == 2
    assert nothing["raw"] == "<answer>\n</answer>"
    assert all("neither <think>" in fault for fault in nothing["rejected"])
    assert all(r["mode"] == "no" and r["format"] == "speaker-reasoner" and r["names"] == [] for r in found.values())

    names = ["der", "speaker-count", "boundary-error"]
    (row,) = publish([tmp_path / "out"], tmp_path / "scores", metrics=names, normaliser="mixed")
    assert row["cer"] > 0
    for key in [oracle.keys[0], oracle.keys[1]]:
        found.pop(key)
    right = tmp_path / "right"
    right.mkdir()
    (right / "no.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found.values()))
    (row,) = publish([right], tmp_path / "scores", metrics=names, normaliser="mixed")
    assert (row["cer"], row["cpcer"]) == (0.0, 0.0)
    assert row["metrics"]["der"] == pytest.approx(0.0, abs=2.0)  # times are centiseconds
    assert row["metrics"]["der"] is not None


def test_interrupted_decoding_continues(parts: Path, oracle: Oracle, tmp_path: Path):
    run(parts, tmp_path / "whole")
    oracle.asked, oracle._die_at = 0, 8
    with pytest.raises(KeyboardInterrupt):
        run(parts, tmp_path / "out")
    done = len((tmp_path / "out" / "parts" / "no.0-of-1.jsonl").read_text().splitlines())
    assert 0 < done < 5
    oracle._die_at = 10**6
    asked = oracle.asked
    run(parts, tmp_path / "out", rank=1, world=2)
    assert run(parts, tmp_path / "out", rank=0, world=2)["no"].clips == 5
    assert oracle.asked - asked < 9  # the first batch is not decoded again
    assert (tmp_path / "out" / "no.jsonl").read_bytes() == (tmp_path / "whole" / "no.jsonl").read_bytes()
    with pytest.raises(ScoreError, match="decoded with another guards"):
        run(parts, tmp_path / "out", attempts=5)
    with pytest.raises(ScoreError, match="decoded with another guards"):
        run(parts, tmp_path / "out", task="single")


def test_a_run_that_learned_nothing_is_decoded_to_its_end(parts: Path, tmp_path: Path):
    run(parts, tmp_path, attempts=2, limit=2, max_new_tokens=8)
    found = rows(tmp_path / "no.jsonl")
    assert {(r["stop"], r["attempts"]) for r in found.values()} == {("no valid reply in 2 attempts", 2)}


def test_modes_and_tasks_that_a_run_does_not_have_are_refused(parts: Path, tmp_path: Path, capsys):
    assert [default_modes(stage) for stage in (11, 12, 13)] == ["no"] * 3
    line = [str(parts / "run"), str(parts / "test"), str(tmp_path / "out")]
    assert main([*line, "--modes", "no,match"]) == 1
    assert "dialogues of stage 12 register no speaker" in capsys.readouterr().err
    recipe = load_recipe(parts / "run" / "config.yaml")
    assert dialogues_of(recipe, "auto", LoopLimits()).task is Task.REASON
    assert dialogues_of(recipe, "single", LoopLimits()).task is Task.SINGLE
    recipe.stage = 11
    assert dialogues_of(recipe, "auto", LoopLimits()).task is Task.SINGLE
    with pytest.raises(ConfigError, match="stage 11 was trained for single, count, genders"):
        dialogues_of(recipe, "reason", LoopLimits())
    recipe.stage = 4
    assert dialogues_of(recipe, "auto", LoopLimits()) is None
    with pytest.raises(ConfigError, match="stage 4 has no dialogues"):
        dialogues_of(recipe, "single", LoopLimits())


def dialogue_rows() -> list[dict[str, Any]]:
    whole = {"turns": 4, "attempts": 5, "at_once": 3, "stop": "answer"}
    return [whole, {"turns": 1, "attempts": 7, "at_once": 1, "stop": "no valid reply in 6 attempts"}]


def test_a_turn_without_a_valid_reply_is_not_well_formed() -> None:
    assert well_formed(dialogue_rows()) == pytest.approx(100 * 4 / 6)
    never = {"turns": 0, "attempts": 0, "at_once": 0, "stop": "the audio is shorter than a line can be"}
    assert well_formed([*dialogue_rows(), never]) == pytest.approx(100 * 4 / 6)
