"""Pairs as the trainer's data: every pair once an epoch, the same on any number of ranks, exact places, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.data.transcript_pairs import PairData, TextStep
from pipeline.prompts import PromptTokenizer
from pipeline.ranks.launch import Ranks
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import AugmentConfig, DatasetConfig, Recipe
from pipeline.recipe.shipped import CHECKOUT
from pipeline.stages import check_speech
from shards.errors import ConfigError, DataError, PlanError
from tests.support.tiny import TEXTS, make_tokenizer

PAIRS = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pairs")
    make_tokenizer(made / "models" / "llm", TEXTS)
    write(made / "pairs.jsonl", PAIRS)
    write(made / "few.jsonl", 3)
    return made


def write(path: Path, count: int) -> None:
    rows = [
        {
            "key": f"k{i}",
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "spk0: " + "yes " * (i % 5 + 1)},
                {"role": "assistant", "content": "spk1: " + "no " * (i % 3 + 1)},
            ],
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def recipe_of(folder: Path, **data: Any) -> Recipe:
    recipe = load_recipe(CHECKOUT / "launch" / "recipes" / "correction" / "tiny.yaml", [f"root={folder}"])
    recipe.data.max_positions, recipe.data.micro_batches_per_step = 150, 3
    for name, value in data.items():
        setattr(recipe.data, name, value)
    return recipe


def data_of(folder: Path, rank: int = 0, world: int = 1, recipe: Recipe | None = None) -> PairData:
    tokenizer = PromptTokenizer.from_folder(folder / "models" / "llm")
    return PairData(recipe or recipe_of(folder), Ranks(rank, world, rank, torch.device("cpu")), tokenizer)


def take(data: PairData, count: int, state: dict[str, Any] | None = None) -> list[TextStep]:
    steps = data.train(state)
    return [next(steps) for _ in range(count)]


def test_an_epoch_takes_every_pair_once_within_the_budget(folder: Path):
    batches = [b for step in take(data_of(folder), 12) for b in step.micro_batches]
    keys = [k for b in batches for k in b.keys]
    first, second = keys[:PAIRS], keys[PAIRS : 2 * PAIRS]
    assert sorted(first) == sorted(second) == sorted(f"k{i}" for i in range(PAIRS))
    assert first != second
    assert all(b.num_positions <= 150 for b in batches)


def test_a_batch_asks_for_the_answers_alone(folder: Path):
    data = data_of(folder)
    batch = take(data, 1)[0].micro_batches[0]
    bounds = batch.cu_seqlens.tolist()
    for n, key in enumerate(batch.keys):
        inside = (batch.target_index >= bounds[n]) & (batch.target_index < bounds[n + 1])
        said = data.tokenizer.decode(batch.target_ids[inside].tolist())
        assert said == ("spk1: " + "no " * (int(key[1:]) % 3 + 1)).strip()
        assert batch.target_ids[inside][-1] == data.tokenizer.eos
        question = data.tokenizer.tokenizer.decode(batch.input_ids[bounds[n] : batch.target_index[inside][0] + 1])
        assert question.startswith("<|im_start|>system\nBe kind.<|im_end|>")
        assert question.endswith("yes <|im_end|>\n<|im_start|>assistant\n")
        assert batch.position_ids[bounds[n]] == 0


def test_ranks_share_the_steps_of_one(folder: Path):
    alone = [[b.keys for b in s.micro_batches] for s in take(data_of(folder), 9)]
    shares = [take(data_of(folder, r, 2), 9) for r in (0, 1)]
    for n, step in enumerate(alone):
        first, second = (s[n].micro_batches for s in shares)
        assert [first[0].keys, second[0].keys, first[1].keys] == step
        assert (second[1].weight, second[1].num_targets, len(second[1].target_ids)) == (0.0, 0, 1)


def test_it_continues_from_a_saved_state(folder: Path):
    straight = take(data_of(folder), 9)
    saved = json.loads(json.dumps(straight[4].state))
    went_on = take(data_of(folder), 4, saved)
    assert [[b.keys for b in s.micro_batches] for s in went_on] == [
        [b.keys for b in s.micro_batches] for s in straight[5:]
    ]
    with pytest.raises(PlanError, match=r"data\.max_positions changed"):
        take(data_of(folder, recipe=recipe_of(folder, max_positions=160)), 1, saved)
    other = recipe_of(folder, train=[DatasetConfig(path=str(folder / "few.jsonl"))])
    with pytest.raises(PlanError, match=r"data\.train changed"):
        take(data_of(folder, recipe=other), 1, saved)


def test_validation_is_the_same_every_time_and_as_much_on_every_rank(folder: Path):
    recipe = recipe_of(folder, validation=[DatasetConfig(path=str(folder / "few.jsonl"))])
    ranks = [data_of(folder, r, 2, recipe) for r in (0, 1)]
    seen = [[[b.keys for b in step] for step, _ in data.validation()] for data in ranks]
    assert [len(step) for step in seen[0]] == [len(step) for step in seen[1]] == [2]
    assert sorted(k for rank in seen for step in rank for keys in step for k in keys if k) == ["k0", "k1", "k2"]
    assert ranks[0].validation_names == ("pairs",)
    assert data_of(folder).validation_names == ()


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ("no json", DataError, r"line 1: not \{"),
        ('{"messages": []}', DataError, r"line 1: not \{"),
        ('{"messages": [{"role": "assistant"}]}', DataError, r"line 1: not \{"),
        ("", DataError, "no pairs"),
    ],
)
def test_a_file_of_something_else_is_an_error(folder: Path, tmp_path: Path, line: str, error: type, says: str):
    (tmp_path / "p.jsonl").write_text(line)
    recipe = recipe_of(folder, train=[DatasetConfig(path=str(tmp_path / "p.jsonl"))])
    with pytest.raises(error, match=says):
        data_of(folder, recipe=recipe)


def test_what_does_not_fit_is_refused(folder: Path):
    with pytest.raises(PlanError, match=r"line 1 \(k0\) has \d+ positions, data.max_positions is 20"):
        data_of(folder, recipe=recipe_of(folder, max_positions=20))
    with pytest.raises(DataError, match="No such file"):
        data_of(folder, recipe=recipe_of(folder, train=[DatasetConfig(path="gone.jsonl")]))
    heavy, augment = [DatasetConfig(path="a", weight=2.0)], AugmentConfig(speeds=[0.9])
    odd = recipe_of(folder, train=heavy, augment=augment, speaker_questions=1)
    with pytest.raises(ConfigError, match=r"remove data\.\*\[a\], data.augment, data.speaker_questions"):
        data_of(folder, recipe=odd)
    with pytest.raises(ConfigError, match="exp/x is of stage 0, a corrector of text"):
        check_speech(0, "exp/x")
