"""Fine-tuning a correcting LLM on the trainer: it learns its pairs, corrects with them, and survives a kill."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.baselines.llm_correction import INSTRUCTION, SYSTEM
from pipeline.ranks.stop import FAILED
from tests.support.distributed import kill_rank_1_before, report, run_command, run_distributed, run_ranks
from tests.support.tiny import make_base
from tests.support.training import sharpen

RIGHT = {
    "a": ("spk0: how are\nspk1: you fine", "spk0: how are you\nspk1: fine"),
    "b": ("spk0: yes one\nspk1: two no", "spk0: yes\nspk1: one two no"),
    "c": ("spk0: hi\nspk1: three", "spk0: hi three"),
}
SMALL = ["data.micro_batches_per_step=2", "data.max_positions=300"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LLM of 2 layers, three pairs, and a cascade's rows of one of them."""
    made = tmp_path_factory.mktemp("correction")
    run_distributed(_make, 1, folder=str(made))
    lines = []
    for key, (given, right) in RIGHT.items():
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"{INSTRUCTION}\n\n{given}"},
            {"role": "assistant", "content": right},
        ]
        lines.append(json.dumps({"key": key, "messages": messages}) + "\n")
    (made / "pairs.jsonl").write_text("".join(lines))
    row = {
        "key": "a", "corpus": "c", "split": "test", "mode": "no", "n_ov": None, "names": [], "duration": 4.0,
        "raw": "spk0 [0.00, 1.50]: how are\nspk1 [1.50, 4.00]: you fine",
        "reference": [
            {"speaker": "spk0", "start": 0.0, "end": 2.0, "text": "how are you"},
            {"speaker": "spk1", "start": 2.0, "end": 4.0, "text": "fine"},
        ],
    }  # fmt: skip
    (made / "cascade").mkdir()
    (made / "cascade" / "no.jsonl").write_text(json.dumps(row) + "\n")
    return made


def _make(folder: str) -> None:
    made = make_base(Path(folder) / "models")
    sharpen(made.llm)


def _train(root: str, output: str, steps: int = 6, die_at: int | None = None, more: list[str] | None = None) -> int:
    """The recipe that people start, in this rank."""
    from pipeline.recipe.load import load_recipe
    from pipeline.recipe.shipped import CHECKOUT
    from pipeline.train.run_stage import run_stages

    if die_at is not None:
        kill_rank_1_before(die_at, Path(output) / "checkpoints" / "step-00000003")
    overrides = [f"root={root}", f"output={output}", f"trainer.max_steps={steps}", "trainer.save_every=3", *SMALL]
    overrides += ["optimizer.warmup_steps=2", "model.lora.dropout=0.1", *(more or [])]
    return run_stages([load_recipe(CHECKOUT / "launch" / "recipes" / "correction" / "tiny.yaml", overrides)])


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "train.jsonl").read_text().splitlines()]


def test_pairs_are_learnt_and_a_cascade_is_corrected(root: Path, tmp_path: Path):
    more = ["model.lora.dropout=0.0", "optimizer.peak_lr=1e-2", f"data.validation=[{{path: {root}/pairs.jsonl}}]"]
    more += ["data.micro_batches_per_step=1", "data.max_positions=1000", "trainer.save_every=1000"]  # one batch of all
    run_distributed(_train, 1, 300, root=str(root), output=str(tmp_path / "run"), steps=100, more=more)
    assert losses(tmp_path / "run")[-1] < 0.05
    last = json.loads((tmp_path / "run" / "validation.jsonl").read_text().splitlines()[-1])
    assert last["losses"].keys() == {"pairs/no"}
    assert last["loss"] < 0.05
    command = [sys.executable, "-m", "pipeline.baselines.cli", "correct", str(root / "cascade")]
    fate = run_command([*command, str(tmp_path / "out"), "--llm", str(tmp_path / "run"), "--normaliser", "en"])
    assert fate.code == 0, report([fate])
    (line,) = (tmp_path / "out" / "no.jsonl").read_text().splitlines()
    assert json.loads(line)["raw"] == RIGHT["a"][1]
    assert json.loads((tmp_path / "run" / "done").read_text())["stage"] == 0


def test_a_killed_run_ends_as_one_that_was_not_disturbed(root: Path, tmp_path: Path):
    run_distributed(_train, 2, root=str(root), output=str(tmp_path / "straight"))
    fates = run_ranks(_train, 2, root=str(root), output=str(tmp_path / "run"), die_at=5)
    assert [f.code for f in fates] == [FAILED, -signal.SIGKILL], report(fates)
    (output, _) = run_distributed(_train, 2, root=str(root), output=str(tmp_path / "run"))
    assert "resumed from" in output
    assert losses(tmp_path / "straight") == losses(tmp_path / "run")
    straight, run = (load_file(tmp_path / n / "weights" / "model.safetensors") for n in ("straight", "run"))
    assert straight.keys() == run.keys()
    assert all(torch.equal(straight[name], run[name]) for name in straight)


def test_any_number_of_ranks_learns_the_same(root: Path, tmp_path: Path):
    for world in (1, 2):
        more = ["model.lora.dropout=0.0"]
        run_distributed(_train, world, root=str(root), output=str(tmp_path / str(world)), steps=3, more=more)
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "2"), rel=1e-5)
