"""The plans of `make learn` and launch/small.py, and figures over seeds."""

from __future__ import annotations

import argparse
import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.decode import test_set
from pipeline.recipe.load import load_recipe, load_recipes
from shards.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of launch/, found as by a script in that folder."""
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    return importlib.import_module


def test_another_seed_has_its_own_folder_on_the_same_data(load: Any, tmp_path: Path) -> None:
    chain = load("chain")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "asr").touch()
    folder = chain.seed_folder(tmp_path, 2)
    assert chain.seed_folder(tmp_path, 2) == folder != chain.seed_folder(tmp_path, None) == tmp_path
    assert (folder / "data" / "asr").samefile(tmp_path / "data" / "asr")
    how = chain.Training(1, 1, ("test-a",), ("test-b",), seed=2)
    steps = {s.name: s for s in chain.training_steps(folder, how)}
    assert "seed=2" in steps["stages 1 to 4: train"].command
    assert {p for s in steps.values() for p in s.proof.parents} >= {folder}
    assert all(str(tmp_path / "exp") not in " ".join(s.command) for s in steps.values())


def learn_steps(load: Any, tmp_path: Path, size: str = "Size") -> list[Any]:
    learn = load("learn")
    made = learn.Size() if size == "Size" else learn.SMOKE
    speech = tmp_path / "data" / "speech"
    voices = list(learn.voice_steps(speech, made, tmp_path))
    return [*voices, *learn.set_steps(tmp_path, made, voices), *learn.leak_steps(tmp_path, made)]


def small_steps(load: Any, tmp_path: Path, size: str) -> list[Any]:
    small = load("small")
    return list(small.data_steps(tmp_path, small.Size() if size == "Size" else small.SMOKE, tmp_path))


@pytest.mark.parametrize("size", ["Size", "SMOKE"])
@pytest.mark.parametrize("plan", [learn_steps, small_steps])
def test_commands_of_the_data_are_ones_that_the_packer_takes(load: Any, tmp_path: Path, plan: Any, size: str) -> None:
    steps = plan(load, tmp_path, size)
    for made in steps:
        name, *arguments = made.command[3:]
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(COMMANDS[name][0]).add_arguments(parser)
        parser.parse_args(arguments)
    proofs = [s.proof for s in steps]
    assert len(set(proofs)) == len(proofs)


@pytest.mark.parametrize("cpu", [False, True])
def test_recipes_of_the_small_chain_take_its_settings(load: Any, tmp_path: Path, cpu: bool) -> None:
    small, chain = load("small"), load("chain")
    overrides = (*(small.ON_CPU if cpu else ()), *small.SMOKE.training.overrides)
    train, *_ = chain.stage_steps(tmp_path, replace(small.SMOKE.training, overrides=overrides))
    made = {s.proof for s in small_steps(load, tmp_path, "SMOKE")}
    at = train.command.index(str(ROOT / "launch" / "recipes" / "small"))
    assert train.command[at + 1 : at + 3] == ("--stages", "1-4")
    assert train.command[train.command.index("--num_accelerators") + 1] == "1"
    recipes = load_recipes(train.command[at], "1-4", train.command[at + 3 :])
    for part, recipe in zip(train.parts, recipes, strict=True):
        assert part.proof == Path(recipe.output) / "done"
        assert {Path(d.path) / "dataset.json" for d in (*recipe.data.train, *recipe.data.validation)} <= made
        assert recipe.model.encoder.checkpoint == str(tmp_path / "models" / "whisper-base")
    assert small.model_step(tmp_path).proof.parent == Path(recipe.model.llm.checkpoint)


def test_a_test_set_is_decoded_with_every_stage_in_one_process(load: Any, tmp_path: Path) -> None:
    chain, decode_each = load("chain"), load("decode_each")
    how = chain.Training(1, 1, ("test-a",), last_tests=("test-b",))
    first, last = [s for s in chain.stage_steps(tmp_path, how) if s.name.startswith("decode")]
    for step, stages in ((first, [1, 2, 3, 4, 4]), (last, [4, 4])):
        calls = [test_set.parser().parse_args(call) for call in decode_each.parts(step.command[2:])]
        assert [c.run for c in calls] == [tmp_path / "exp" / f"stage{n}" for n in stages]
        assert [c.out / "done" for c in calls] == [p.proof for p in step.parts]
        assert {c.dataset_url for c in calls} == {str(tmp_path / "data" / step.name.removeprefix("decode "))}
        assert [c.permute_vectors for c in calls] == [n == len(stages) - 1 for n in range(len(stages))]
        assert step.proof == step.parts[-1].proof
    assert first.parts[0].name == "stage 1: decode test-a"
    assert test_set.parser().parse_args(next(decode_each.parts(first.command[2:]))).modes == "asr,no,match,over"


def test_decodings_that_are_done_are_skipped_and_the_first_failure_ends_them(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_each, called = load("decode_each"), []

    def decode(call: list[str]) -> int:
        called.append(call)
        return 3 * (call[2] == "three")

    monkeypatch.setattr(test_set, "main", decode)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "done").touch()
    calls = [["run", "test", out] for out in ("one", "two", "three", "four")]
    assert decode_each.main([*calls[0], "+", *calls[1], "+", *calls[2], "+", *calls[3]]) == 3
    assert called == calls[1:3]


def test_the_recipes_of_learn_are_the_tiny_ones_with_more_steps(load: Any) -> None:
    folder = ROOT / "launch" / "recipes" / load("learn").TRAINING.recipes
    for tiny, learn in zip(load_recipes("tiny", "1-4"), load_recipes(folder, "1-4"), strict=True):
        assert learn.trainer.max_steps > tiny.trainer.max_steps
        assert replace(learn, trainer=replace(learn.trainer, max_steps=tiny.trainer.max_steps)) == tiny


def test_the_llm_is_trained_beside_the_data_that_it_does_not_need(load: Any, tmp_path: Path) -> None:
    demo, chain, steps = load("demo"), load("chain"), load("steps")
    made = [*demo.data_steps(tmp_path, demo.Size(), tmp_path), *chain.training_steps(tmp_path, demo.TRAINING)]
    progress, waiting, order = steps.Progress(made), list(made), []
    while step := progress.ready(waiting):
        waiting.remove(step)
        order.append(step.name)
        progress._ended.add(step.name)
    assert order[:4] == [made[0].name, "simulate asr", "pack asr", "stage 0: tiny stand-in for Qwen2.5"]
    assert len(order) == len(made)


def test_steps_run_behind_those_whose_files_they_read(load: Any, tmp_path: Path) -> None:
    """By the paths in their commands, which are the proofs' folders of other steps."""
    demo, chain = load("demo"), load("chain")
    steps = [*demo.data_steps(tmp_path, demo.Size(), tmp_path), *chain.training_steps(tmp_path, demo.TRAINING)]
    checked = 0
    for at, step in enumerate(steps):
        needed, todo = set(), [at]
        while todo:  # what it needs, and what that needs
            own = steps[todo.pop()]
            names = [s.name for s in steps[: steps.index(own)]] if own.after is None else own.after
            new = [i for i, s in enumerate(steps) if s.name in names and i not in needed]
            needed.update(new)
            todo += new
        assert at not in needed
        for i, other in enumerate(steps):
            proofs = [part.proof for part in other.pieces]
            folders = {p.with_suffix("") if p.suffix == ".done" else p.parent for p in proofs}
            if i != at and any(Path(word) in folders for word in step.command if word.startswith("/")):
                assert i in needed, f"{step.name} reads what {other.name} makes"
                checked += 1
    assert checked > 20


def test_every_test_set_is_checked_against_all_training_data(load: Any, tmp_path: Path) -> None:
    learn = load("learn")
    data = str(tmp_path / "data")
    checks = [s.command[4:] for s in learn_steps(load, tmp_path) if s.command[3] == "overlap"]
    names = {(a.removeprefix(data + "/"), b.removeprefix(data + "/")): allowed for a, b, *allowed in checks}
    training = learn.Size().training
    for test in (*training.tests, *training.last_tests):
        for train in learn.TRAIN:
            expected = [] if test == "test-new-voices" else ["--allow", "speaker"]
            assert names[train, test] == expected
    for heard in ("takes/train", "takes/enrolment"):
        assert names[heard, "takes/new"] == []
        assert names[heard, "takes/takes"] == names[heard, "takes/second"] == ["--allow", "speaker"]


def test_no_test_voice_or_take_is_chosen_for_training(load: Any, tmp_path: Path) -> None:
    learn = load("learn")
    options = {}
    for s in learn_steps(load, tmp_path):
        if s.command[3] == "pseudo-speakers":
            parser = argparse.ArgumentParser()
            importlib.import_module(COMMANDS["pseudo-speakers"][0]).add_arguments(parser)
            args = parser.parse_args(s.command[4:])
            options[f"{args.out.parent.name}/{args.out.name}"] = args
    withheld = set(learn.NEW_VOICES) | set(learn.WITHHELD_TAKES)
    assert set(options["train/digits"].without) == withheld
    assert set(options["train/prompts"].without) == set(learn.NEW_VOICES) | set(learn.SECOND_TAKES)
    assert set(options["takes/digits"].only) == set(learn.WITHHELD_TAKES)
    assert set(options["new/digits"].only) == set(options["new/prompts"].only) == set(learn.NEW_VOICES)
    assert set(options["second/digits"].only) == set(learn.SECOND_TAKES)


@pytest.mark.parametrize("size", ["Size", "SMOKE"])
def test_recipes_of_the_reasoner_follow_one_another_on_the_data_that_is_made(
    load: Any, tmp_path: Path, size: str
) -> None:
    reason, demo = load("reason"), load("demo")
    how = reason.Size() if size == "Size" else reason.SMOKE
    steps = {s.name: s for s in reason.stage_steps(tmp_path, how)}
    data = [*demo.data_steps(tmp_path, how.demo, tmp_path), *reason.data_steps(tmp_path, how)]
    made = {s.proof for s in data}
    made |= {tmp_path / "exp" / "stage4" / "done"}
    folder = reason.model_step(tmp_path, how).proof.parent
    made |= {folder / "run" / "done"}
    recipes = []
    for found in steps.values():
        command = found.command
        at = next(i for i, part in enumerate(command) if part.startswith(str(ROOT / "launch" / "recipes")))
        stages = command[at + 2] if command[at + 1] == "--stages" else None
        recipes += load_recipes(command[at], stages, command[at + 1 + 2 * (stages is not None) :])
        made_here = [Path(recipe.output) / "done" for recipe in recipes[-len(found.parts) :]]
        assert [part.proof for part in found.parts] == made_here
    for recipe in recipes:
        assert {Path(d.path) / "dataset.json" for d in (*recipe.data.train, *recipe.data.validation)} <= made
        assert recipe.init_from
        assert Path(recipe.init_from) / "done" in made
        parts = tmp_path / "models" if recipe.stage == 4 else folder
        assert recipe.model.llm.checkpoint == str(parts / "llm")
        made.add(Path(recipe.output) / "done")
    assert [r.stage for r in recipes] == [11, 12, 13, 4]
    updates = [r.trainer.max_steps for r in recipes]
    practised = -(-how.practice_steps // recipes[0].data.micro_batches_per_step)
    assert sum(updates[:3]) + practised == updates[3]  # both systems learn from as many micro-batches more


def test_the_reasoner_cache_is_as_long_as_in_its_training(load: Any, tmp_path: Path) -> None:
    reason = load("reason")
    recipe = load_recipe(ROOT / "launch" / "recipes" / "speaker-reasoner-tiny" / "stage13.yaml", [])
    assert reason.Size().known_seconds == recipe.data.dialogue.cache.total_seconds


def test_aims_of_the_reasoner_are_judged_one_by_one(load: Any) -> None:
    row = {"test_set": "t", "der": 30.0, "speaker-count": 70.0, "well-formed": None}
    ours = row | {"stage": 13, "der": 29.0, "speaker-count": 69.0, "well-formed": 96.0}
    labels = {"with": 70.0, "without": 60.0, "low": -1.0}
    table = load("reason_scores").aims({"clips": [row | {"stage": 4}, ours], "labels": labels})
    verdicts = [line.split("|")[-2].strip() for line in table.splitlines()[2:]]
    assert verdicts == ["met", "not met", "met", "not met"]


def rows(shift: float) -> list[dict[str, Any]]:
    from pipeline.decode.test_set import PERMUTED

    def row(test: str, mode: str, cer: float, cpcer: float, sacer: float | None) -> dict[str, Any]:
        figures = {"cer": cer + shift, "cpcer": cpcer + shift, "sacer": None if sacer is None else sacer + shift}
        return {"stage": 4, "test_set": test, "mode": mode, **figures}

    true = [row("t", "no", 8, 12, None), row("t", "match", 9, 12, 20), row("t", "over", 9, 13, 40)]
    control = [row("t" + PERMUTED, "match", 9.5, 12, 60), row("t" + PERMUTED, "over", 14, 14, 79)]
    return true + control


def test_targets_are_judged_one_by_one(load: Any) -> None:
    table = load("seeds").targets(rows(0.0), ["t"])
    verdicts = {tuple(c.strip() for c in line.split("|")[2:6:3]) for line in table.splitlines()[2:]}
    assert verdicts == {
        ("no cpCER", "met"), ("match saCER", "met"), ("over saCER", "not met"),
        ("match permuted: saCER, times the true", "met"), ("match permuted: CER moved, points", "met"),
        ("over permuted: saCER, times the true", "not met"), ("over permuted: CER moved, points", "not met"),
    }  # fmt: skip


def test_median_and_spread_over_seeds(load: Any, tmp_path: Path) -> None:
    folders = []
    for seed, shift in enumerate((0.0, 6.0, 1.0)):
        folders.append(tmp_path / str(seed))
        folders[-1].mkdir()
        (folders[-1] / "scores.json").write_text(json.dumps(rows(shift)))
    text = load("seeds").medians(folders, tmp_path / "seeds.json", ["t"])
    assert "13.0 [12.0, 18.0]" in text
    merged = {(r["test_set"], r["mode"]): r for r in json.loads((tmp_path / "seeds.json").read_text())}
    assert merged["t", "match"]["sacer"] == {"median": 21.0, "low": 20.0, "high": 26.0, "values": [20.0, 26.0, 21.0]}
    assert "sacer" not in merged["t", "no"]
