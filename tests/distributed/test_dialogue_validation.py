"""Dialogues of the small decode under ZeRO-3: unlike turns never hang, every way and number of ranks says the same."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.ranks.stop import REQUEUE
from pipeline.recipe.schema import DatasetConfig, Recipe
from pipeline.stages import Base
from tests.support.distributed import report, run_distributed, run_ranks
from tests.support.thinkers import make_thinker, thinker_config
from tests.support.training import DIM, make_parts, tiny_recipe

BASES = [Base.SPEAKERLM, Base.QWEN2_5_OMNI]
DECODE = {"decode_clips": 3, "decode_batch": 1, "decode_tokens": 10, "validation_share": 1.0, "validation_batches": 1}
MANY = 6  # turns of every other clip, the rest has one
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    run_distributed(_make, 1, folder=str(folder))
    return folder


def _make(folder: str) -> None:
    from tests.support.datasets import make_dataset

    make_parts(folder)
    make_dataset(Path(folder) / "meetings", samples=8, speakers_per_sample=(1, 3), dim=DIM, seed=6)
    _attend(Path(folder) / "base" / "llm")
    _attend(make_thinker(Path(folder) / Base.QWEN2_5_OMNI, Base.QWEN2_5_OMNI, layers=2))
    for base in BASES:
        _finish(folder, base)


def _attend(folder: Path) -> None:
    """Scale the decoder's random weights, so that its tokens depend on what is far before."""
    from safetensors.torch import load_file, save_file

    for path in folder.glob("*.safetensors"):
        weights = load_file(path)
        for name in [n for n in weights if ".layers." in n and "audio" not in n and weights[n].ndim == 2]:
            weights[name] *= 10
        save_file(weights, path, metadata={"format": "pt"})


def _finish(folder: str, base: str) -> None:
    """Write a run of stage 11 that has finished without learning anything."""
    from pipeline.checkpoint.final_weights import write_done
    from pipeline.model.build import build_model
    from pipeline.model.own_weights import WEIGHTS, own_state_dict, save_own_weights
    from pipeline.model.thinker import build_thinker
    from pipeline.recipe.load import save_recipe
    from shards.weights.hashes import sha256_of

    recipe = _recipe(folder, str(Path(folder) / f"R1-{base}"), base)
    run = Path(recipe.output)
    model = build_model(recipe.model) if base == Base.SPEAKERLM else build_thinker(recipe.model)
    save_own_weights(run / WEIGHTS, own_state_dict(model), model.bases)
    save_recipe(replace(recipe, stage=11), run / "config.yaml")
    write_done(run, {"stage": 11, "step": 0, "weights_sha256": sha256_of(run / WEIGHTS), "bases": model.bases})


def _recipe(parts: str, output: str, base: str, **trainer: Any) -> Recipe:
    recipe = tiny_recipe(Path(parts), Path(output), stage=12, **{"max_steps": 1, **DECODE, **trainer})
    recipe.init_from, recipe.init_from_any = str(Path(parts) / f"R1-{base}"), True
    if base != Base.SPEAKERLM:
        recipe.model = thinker_config(Path(parts) / base, base)
    meetings = [DatasetConfig(path=str(Path(parts) / "meetings"))]
    recipe.data = replace(recipe.data, train=meetings, validation=meetings, max_positions=3000, max_frames=1500)
    return recipe


def wanted(key: str) -> int:
    return MANY if zlib.crc32(key.encode()) % 2 else 1


def _scripted() -> None:
    """Replies have the form of a dialogue of one turn or many; their words depend on the model's tokens."""
    from pipeline.reasoner import loop

    take = loop._take

    def scripted(dialogue: Any, text: str | None, *rest: Any) -> Any:
        said = f"Male 1 [0.0, 0.4]: {zlib.crc32((text or '').encode())}"
        if len(dialogue.replies) + 1 < wanted(dialogue.clip.key):
            return take(dialogue, f"<think>\n{said}\n</think><box>[0.0, 0.5]</box>", *rest)
        return take(dialogue, f"<answer>\n{said}\n</answer>", *rest)

    loop._take = scripted


def _train(parts: str, runs: str, base: str, settings: dict[str, dict[str, Any]], scripted: bool = True) -> int:
    from pipeline.train.run_stage import run_stage

    if scripted:
        _scripted()
    for name, trainer in settings.items():
        if code := run_stage(_recipe(parts, str(Path(runs) / name), base, **trainer)):
            return code
    return 0


def rows(run: Path, log: str = "validation") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"{log}.jsonl").read_text().splitlines()]


def dialogues(run: Path, step: int) -> dict[str, dict[str, Any]]:
    return {r["key"]: r for r in rows(run / "decoded" / f"step-{step:08d}", "no")}


@pytest.mark.parametrize("base", BASES)
def test_unlike_dialogues_never_hang_and_every_way_says_the_same(parts: Path, tmp_path: Path, base: str) -> None:
    how: dict[str, Any] = {"parts": str(parts), "runs": str(tmp_path), "base": base}
    run_distributed(_train, 1, 200, **how, settings={"alone": {}})
    ways = {way: {"decode_how": way} for way in ("together", "local")}
    logs = run_distributed(_train, 2, 280, **how, settings=ways)
    assert "decoded 3 answers (together)" in logs[0]
    assert "decoded 3 answers (local)" in logs[0]
    for step in (0, 1):  # three clips on two ranks: the second one is without a clip in the last round
        alone, together, local = (dialogues(tmp_path / name, step) for name in ("alone", "together", "local"))
        assert alone == together == local
        assert {r["turns"] for r in alone.values()} == {1, MANY}
        assert all(r["stop"] == "answer" for r in alone.values())
        assert len({str(r["raw"]) for r in alone.values()}) == 3
    scores = [rows(tmp_path / name)[-1]["scores"] for name in ("alone", "together", "local")]
    assert scores[0] == scores[1] == scores[2]
    figures = scores[0]["all"]
    assert (figures["clips"], figures["well_formed"]) == (3, 100.0)
    assert all(figures[name] is not None for name in ("cer", "cpcer", "der", "right_speakers"))
    assert "well-formed first replies 100.00" in logs[0]


def test_replies_without_form_end_after_few_attempts(parts: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"parts": str(parts), "runs": str(tmp_path), "base": Base.SPEAKERLM}
    run_distributed(_train, 2, 200, **how, settings={"together": {"decode_how": "together"}}, scripted=False)
    found = dialogues(tmp_path / "together", 1).values()
    assert {r["stop"] for r in found} == {"no valid reply in 4 attempts"}
    figures = rows(tmp_path / "together")[-1]["scores"]["all"]
    assert (figures["well_formed"], figures["right_speakers"]) == (0.0, 0.0)


def _train_and_stop(parts: str, output: str) -> int:
    """On rank 1 a stop request comes in the middle of a dialogue."""
    from pipeline.decode import lockstep
    from pipeline.ranks.stop import StopRequest
    from pipeline.train.run_stage import run_stage

    _scripted()
    install, agree, calls = StopRequest.install, lockstep.Lockstep._agree, []
    request: Any = None

    def remembered(self: StopRequest) -> StopRequest:
        nonlocal request
        request = install(self)
        return request

    def watched(self: Any, call: Any) -> Any:
        calls.append(1)
        if self._ranks.rank == 1 and len(calls) == 20:
            request.signal = 15
        return agree(self, call)

    StopRequest.install = remembered  # type: ignore[method-assign]
    lockstep.Lockstep._agree = watched  # type: ignore[method-assign]
    return run_stage(_recipe(parts, output, Base.SPEAKERLM, decode_how="together"))


def test_a_stop_ends_the_dialogues_of_all_ranks(parts: Path, tmp_path: Path) -> None:
    fates = run_ranks(_train_and_stop, 2, 120, parts=str(parts), output=str(tmp_path))
    assert [f.code for f in fates] == [REQUEUE, REQUEUE], report(fates)
    assert not (tmp_path / "validation.jsonl").exists()
