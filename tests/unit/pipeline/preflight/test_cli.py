"""The command as people start it, and what it looks at."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.export.folder import export
from pipeline.preflight.advice import CHECKPOINTINGS
from pipeline.preflight.checks import all_checks
from pipeline.preflight.cli import main
from pipeline.preflight.shapes import empty_model
from pipeline.recipe.deepspeed import resolve_deepspeed, zero_stage
from pipeline.recipe.load import load_recipe, save_recipe
from pipeline.recipe.shipped import CHECKOUT
from tests.support.finished_runs import make_finished_run
from tests.support.training import make_parts, tiny_recipe

STAGE4 = str(CHECKOUT / "launch" / "recipes" / "speakerlm-7b" / "stage4.yaml")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    make_parts(folder)
    return folder


def recipe_file(parts: Path, folder: Path, **changes: Any) -> str:
    recipe = tiny_recipe(parts, folder / "run", stage=1)
    for name, value in changes.items():
        setattr(recipe.model, name, value)
    save_recipe(recipe, folder / "recipe.yaml")
    return str(folder / "recipe.yaml")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from pipeline.preflight.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'deepspeed', 'transformers', 'numpy'} & set(sys.modules), 'heavy'"
    )
    begin = time.process_time()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=CHECKOUT)
    assert "speakerlm-preflight" in done.stdout
    assert time.process_time() >= begin


@pytest.mark.parametrize(
    ("card", "gpus", "nodes", "positions", "fits"),
    [("H100-80", 8, 4, 6000, 0), ("RTX4090", 1, 1, 16000, 1)],
)
def test_planning_the_large_model_from_sizes_alone(
    capsys: pytest.CaptureFixture[str], card: str, gpus: int, nodes: int, positions: int, fits: int
) -> None:
    arguments = [STAGE4, f"data.micro_batches_per_step={gpus * nodes}", "--no-checks", f"--positions={positions}"]
    arguments += ["--no-host", "--no-choices"]
    code, out = run(capsys, *arguments, "--card", card, "--gpus", str(gpus), "--nodes", str(nodes))
    assert code == fits
    e = out["estimate"]
    assert e["parameters"]["llm"]["all"] == 7_615_616_512  # as Qwen publishes
    assert e["parameters"]["encoder"]["all"] == 221_136_992
    assert e["parameters"]["lora"] == {"all": 40_370_176, "trained": 40_370_176, "bytes": 2 * 40_370_176}
    assert e["memory"]["weights"] >= 2 * 7.88e9 / (gpus * nodes)
    assert 0.2 < e["mfu"] < 0.5
    assert e["gpu_hours"] == pytest.approx(e["hours_to_go"] * gpus * nodes)
    assert e["hardware_tflop"] > 1.3 * e["model_tflop"]  # activations are recomputed


def test_choices_for_a_card(capsys: pytest.CaptureFixture[str], parts: Path, tmp_path: Path) -> None:
    file, made = recipe_file(parts, tmp_path), tmp_path / "fast.yaml"
    arguments = [file, "--plan-steps", "2", "--no-checks", "--card", "A800-80", "--no-host"]
    code, out = run(capsys, *arguments, "--apply", str(made))
    assert code == 0
    names = [*CHECKPOINTINGS]
    assert [(c["zero"], c["checkpointing"]) for c in out["choices"]] == [(z, n) for z in (3, 2) for n in names]
    gib = {(c["zero"], c["checkpointing"]): c["gib"] for c in out["choices"]}
    assert gib[3, "all"] <= gib[3, "encoder alone"] <= gib[3, "none"]  # so small a model's filterbank needs most
    assert gib[3, "none"] == pytest.approx(out["estimate"]["memory"]["device"] / 2**30, rel=1e-3)  # the recipe's own
    fast = load_recipe(made)
    chosen = next(line for line in out["advice"] if line.startswith("   >") or line.startswith("  *>"))
    assert zero_stage(resolve_deepspeed(fast, 1)) == int(chosen[4:].split()[0])
    assert main([*arguments, "--no-choices", "--apply", str(tmp_path / "x.yaml")]) == 1
    assert "--apply writes one of the choices" in capsys.readouterr().err


def test_of_a_dataset_with_checks(capsys: pytest.CaptureFixture[str], parts: Path, tmp_path: Path) -> None:
    code, out = run(capsys, recipe_file(parts, tmp_path), "--plan-steps", "4")
    assert code == 0
    verdicts = {c["what"]: c["verdict"] for c in out["checks"]}
    assert verdicts["LLM"] == verdicts["encoder"] == verdicts["dataset"] == verdicts["disk"] == "ok"
    assert verdicts["token lengths"] == "note"
    assert out["estimate"]["step_seconds"] is None
    assert out["work"]["epochs"] > 0
    assert main([recipe_file(parts, tmp_path), "--plan-steps", "4"]) == 0
    table = capsys.readouterr().out
    assert "memory of a rank" in table
    assert "audio_projector" in table


def test_the_largest_micro_batch_for_real(capsys: pytest.CaptureFixture[str], parts: Path, tmp_path: Path) -> None:
    code, out = run(capsys, recipe_file(parts, tmp_path), "--plan-steps", "4", "--no-checks", "--run", "2")
    assert code == 0
    assert out["run"]["ranks"] == 2
    for row in ("states, GiB", "added by a step, GiB"):
        expected, found, _ = out["run"]["rows"][row]
        assert 0.8 < expected / found < 1.25, row
    assert out["run"]["rows"]["step, s"][1] > 0


def test_a_rank_that_fails_says_why(capsys: pytest.CaptureFixture[str], parts: Path, tmp_path: Path) -> None:
    file = recipe_file(parts, tmp_path)
    assert main([file, "--plan-steps", "2", "--no-checks", "--run", "2", "data.micro_batches_per_step=1"]) == 1
    assert "ranks" in capsys.readouterr().err


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str], parts: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(parts, tmp_path / "run", stage=4)
    recipe.init_from = str(tmp_path / "nowhere")
    recipe.data.train[0].path = str(tmp_path / "no-data")
    recipe.model.encoder.checkpoint = str(tmp_path)
    found = {c.what: c for c in all_checks(recipe, 10**15, None, 1)}
    assert found["CheckpointError"].verdict == "FAIL"
    assert "nowhere" in found["CheckpointError"].found
    assert found["disk"].verdict == "FAIL"
    assert "model.pt" in found["encoder"].found
    assert found["LLM"].verdict == "ok"
    assert main([STAGE4, "--no-checks", "--positions", "6000", "model.llm.checkpoint=who/knows"]) == 1
    assert "Qwen2.5-7B-Instruct" in capsys.readouterr().err
    assert main([STAGE4, "--positions", "6000", "--card", "Z80"]) == 1


def test_vectors_of_another_extractor_are_found_before_the_run(parts: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(parts, tmp_path / "run", stage=1)
    recipe.model.extractor = "other"
    of_data = [c for c in all_checks(recipe, 1, None, 1) if c.what == "dataset"]
    assert {c.verdict for c in of_data} == {"FAIL"}
    assert "not other" in of_data[0].found


def test_a_start_from_an_exported_folder_is_checked(parts: Path, tmp_path: Path) -> None:
    """Its LLM and encoder give the model's shape; what does not fit is said before the run."""
    recipe = tiny_recipe(parts, tmp_path / "run")
    run = make_finished_run(tmp_path / "before", recipe.model, stage=4, init_from="x")
    folder = str(export(run, tmp_path / "model", merge=True))

    def start() -> list[tuple[str, str]]:
        found = all_checks(recipe, 1, None, 1)
        return [(c.verdict, c.found) for c in found if c.what in ("starts from", "ModelError")]

    recipe.init_from = folder
    assert start()[0][0] == "FAIL"
    assert "set model.llm.checkpoint to" in start()[0][1]
    recipe.model.llm.checkpoint = recipe.model.encoder.checkpoint = folder
    assert start() == [("ok", f"{folder}, exported")]
    assert {c.verdict for c in all_checks(recipe, 1, None, 1) if c.what in ("LLM", "encoder")} == {"ok"}
    model, notes = empty_model(recipe.model, "float32")
    assert all(folder in note for note in notes)
    assert model.llm.config.num_hidden_layers == 1
    recipe.init_from = "people/mine@v2"
    assert start() == [("note", "people/mine@v2: no such folder; it will be asked of huggingface")]
    recipe.init_from, recipe.model.llm.checkpoint = folder, "people/mine"
    assert start() == [("note", f"{folder}; not compared with people/mine, not on this machine")]
