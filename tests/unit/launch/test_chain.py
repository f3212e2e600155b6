"""The mechanism of the chains of steps, the plans of `make learn` and launch/small.py, and figures over seeds."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline.recipe.load import load_recipe
from shards.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of launch/, found as by a script in that folder."""
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    return importlib.import_module


def step(chain: ModuleType, folder: Path, name: str, code: str, **options: Any) -> Any:
    return chain.Step(name, (sys.executable, "-c", code), folder / f"{name}.done", **options)


def test_a_step_runs_once_and_a_failed_one_again(load: Any, tmp_path: Path, capsys: Any) -> None:
    chain = load("chain")
    log = tmp_path / "count"
    count = f"from pathlib import Path; p = Path({str(log)!r}); p.open('a').write('x')\n"
    first = step(chain, tmp_path, "first", count + f"Path({str(tmp_path / 'first.done')!r}).touch()")
    broken = step(chain, tmp_path, "broken", "print('why'); raise SystemExit(3)")
    with pytest.raises(SystemExit, match=r"FAILED: broken \(exit status 3\)") as error:
        chain.run_steps([first, broken], tmp_path / "logs", tmp_path, "make it")
    assert "`make it` continues from this step" in str(error.value)
    assert "why" in capsys.readouterr().err
    mended = step(chain, tmp_path, "broken", f"from pathlib import Path; Path({str(broken.proof)!r}).touch()")
    chain.run_steps([first, mended], tmp_path / "logs", tmp_path, "make it")
    assert log.read_text() == "x"
    assert "have  first" in capsys.readouterr().out


def test_a_step_without_proof_has_failed(load: Any, tmp_path: Path) -> None:
    chain = load("chain")
    with pytest.raises(SystemExit, match="was not written"):
        chain.run_steps([step(chain, tmp_path, "idle", "pass")], tmp_path / "logs", tmp_path, "make it")


def test_what_a_check_prints_is_its_proof_but_not_where_it_fails(load: Any, tmp_path: Path) -> None:
    chain = load("chain")
    good = step(chain, tmp_path, "good", "print('no leak')", prints_proof=True)
    bad = step(chain, tmp_path, "bad", "print('leak'); raise SystemExit(1)", prints_proof=True)
    with pytest.raises(SystemExit, match="FAILED: bad"):
        chain.run_steps([good, bad], tmp_path / "logs", tmp_path, "make it")
    assert good.proof.read_text() == "no leak\n"
    assert not bad.proof.exists()


def test_another_seed_has_its_own_folder_on_the_same_data(load: Any, tmp_path: Path) -> None:
    chain = load("chain")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "asr").touch()
    folder = chain.seed_folder(tmp_path, 2)
    assert chain.seed_folder(tmp_path, 2) == folder != chain.seed_folder(tmp_path, None) == tmp_path
    assert (folder / "data" / "asr").samefile(tmp_path / "data" / "asr")
    how = chain.Training(1, 1, ("test-a",), ("test-b",), seed=2)
    steps = {s.name: s for s in chain.training_steps(folder, how)}
    assert "seed=2" in steps["stage 3: train"].command
    assert {p for s in steps.values() for p in s.proof.parents} >= {folder}
    assert all(str(tmp_path / "exp") not in " ".join(s.command) for s in steps.values())


def learn_steps(load: Any, tmp_path: Path, size: str = "Size") -> list[Any]:
    learn = load("learn")
    made = learn.Size() if size == "Size" else learn.SMOKE
    speech = tmp_path / "data" / "speech"
    steps = [*learn.voice_steps(speech, made, tmp_path), *learn.set_steps(tmp_path, made)]
    return [*steps, *learn.leak_steps(tmp_path, made)]


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
    steps = {s.name: s for s in chain.stage_steps(tmp_path, replace(small.SMOKE.training, overrides=overrides))}
    made = {s.proof for s in small_steps(load, tmp_path, "SMOKE")}
    for n in chain.STAGES:
        command = steps[f"stage {n}: train"].command
        at = command.index(str(ROOT / "launch" / "recipes" / "small" / f"stage{n}.yaml"))
        recipe = load_recipe(command[at], command[at + 1 :])
        assert steps[f"stage {n}: train"].proof == Path(recipe.output) / "done"
        assert command[command.index("--num_accelerators") + 1] == "1"
        assert {Path(d.path) / "dataset.json" for d in (*recipe.data.train, *recipe.data.validation)} <= made
        assert recipe.model.encoder.checkpoint == str(tmp_path / "models" / "whisper-base")
    assert small.model_step(tmp_path).proof.parent == Path(recipe.model.llm.checkpoint)


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
