"""A stand-in LLM gets tokens of times, and practises to point at them and to read them."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pipeline.data.collate import Batch
from pipeline.model.build import build_model, load_tokenizer
from pipeline.model.own_weights import ZERO_AT_START, load_own_weights
from pipeline.prompts import PromptTokenizer
from pipeline.ranks.launch import Ranks
from pipeline.recipe.schema import DataConfig, DatasetConfig, DialogueConfig, Recipe
from pipeline.train.stage_data import StageData
from shards.errors import ModelError
from tests.support.datasets import make_dataset
from tests.support.finished_runs import make_finished_run
from tests.support.tiny import TinyBase, make_base, model_config

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, found as by another in its folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "launch"))
    return importlib.import_module("reason_llm")


@pytest.fixture
def practice(made: ModuleType) -> ModuleType:
    return importlib.import_module("reason_practice")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of four layers, a run on it, and a dataset of dialogues."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("parts")
    make_finished_run(folder / "run", model_config(make_base(folder / "base", layers=4)), stage=4, init_from="before")
    make_dataset(folder / "data", samples=12, pool_size=4, dim=16, sessions=True, seconds=(2.0, 4.0))
    return folder


def recipe_of(parts: Path, llm: Path) -> Recipe:
    model = model_config(TinyBase(parts / "base" / "encoder", llm))
    model.projector.time_embedding = True
    data = DataConfig(
        train=[DatasetConfig(path=str(parts / "data"))],
        dialogue=DialogueConfig(decimals=1),
        encoder_calls=2,
        max_positions=1500,
        max_frames=2000,
        micro_batches_per_step=1,
        window_shards=1,
        workers=0,
    )
    return Recipe("practice", 12, "unused", model=model, data=data, init_from="unused")


@pytest.fixture
def extended(parts: Path, made: ModuleType, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """An LLM with tokens of times, and the vectors of their digits."""
    return tmp_path / "llm", made.add_times(parts / "base" / "llm", tmp_path / "llm", 0)


def dialogue_batch(parts: Path, llm: Path) -> tuple[Batch, PromptTokenizer, Recipe]:
    recipe = recipe_of(parts, llm)
    tokenizer = load_tokenizer(recipe.model)
    steps = StageData(recipe, ALONE, tokenizer).train(None)
    batches = (batch for step in steps for batch in step.micro_batches)
    return next(b for b in batches if b.weight and len(set(b.waveform_starts.tolist())) > 2), tokenizer, recipe


def test_each_time_is_one_token_and_times_that_share_a_digit_are_alike(
    parts: Path, extended: tuple[Path, torch.Tensor]
) -> None:
    from transformers import AutoModelForCausalLM

    llm, vectors = extended
    tokenizer, before = PromptTokenizer.from_folder(llm), PromptTokenizer.from_folder(parts / "base" / "llm")
    assert tokenizer.tokenizer.tokenize("[12.3, 4.5]") == ["[", "12.3", ",", "Ġ", "4.5", "]"]
    assert tokenizer.encode_piece("Mike: hi") == before.encode_piece("Mike: hi")
    table: Any = AutoModelForCausalLM.from_pretrained(str(llm)).get_output_embeddings().weight
    rows = {text: table[tokenizer.encode_piece(text)[0]] for text in ("3.4", "3.9", "5.4", "5.9")}
    assert torch.allclose(rows["3.4"] - rows["3.9"], rows["5.4"] - rows["5.9"], atol=1e-5)
    assert not torch.allclose(rows["3.4"], rows["5.4"], atol=1e-2)
    assert vectors.shape == (40, table.shape[1])
    old: Any = AutoModelForCausalLM.from_pretrained(str(parts / "base" / "llm")).get_output_embeddings().weight
    digits = [before.encode_piece(str(n))[0] for n in range(10)]
    others = [n for n in range(len(old)) if n not in digits[1:]]
    assert torch.equal(table[others], old[others])
    assert torch.equal(table[digits[1:]], old[digits[:-1]])  # SpeakerLM counts from 0, dialogues from 1


def test_lines_times_and_words_are_found_in_text_and_audio(
    parts: Path, practice: ModuleType, extended: tuple[Path, torch.Tensor]
) -> None:
    batch, tokenizer, _ = dialogue_batch(parts, extended[0])
    text = tokenizer.decode([int(t) for t in batch.target_ids])
    lines = practice.lines_written(batch, tokenizer)
    assert len(lines) == text.count("]:") > 2

    def written(places: list[int]) -> str:
        return tokenizer.decode([int(batch.target_ids[n]) for n in places])

    for line in lines:
        assert f"{written(line.label)} [{line.start:.1f}, {line.end:.1f}]: {written(line.words).strip()}\n" in text
    at, spans = practice.spans_heard(batch, lines, tokenizer)
    asked = dict(zip(at.tolist(), spans.tolist(), strict=True))
    first = lines[0]
    assert asked[int(batch.target_index[first.times[1]])] == pytest.approx([first.end] * 2)
    assert asked[int(batch.target_index[first.words[0]])] == pytest.approx([first.start, first.end])
    assert asked[int(batch.target_index[first.label[0]])][0] == pytest.approx(first.start)
    heard = practice.seconds_heard(batch, 2)
    assert ((heard >= 0) == torch.isin(torch.arange(len(heard)), batch.audio_index)).all()
    start = batch.audio_index.min()
    assert heard[start : start + 3].tolist() == pytest.approx([0.06, 0.18, 0.30])


def test_who_is_heard_is_asked_where_one_speaker_is(
    parts: Path, practice: ModuleType, extended: tuple[Path, torch.Tensor]
) -> None:
    """A cached entry, then a clip of four positions with lines of two speakers that overlap."""
    _, tokenizer, _ = dialogue_batch(parts, extended[0])
    before = [*tokenizer.encode_piece("Female 2"), *tokenizer.encode_piece("<start>")]
    first = len(before)

    class Rows:
        cu_seqlens = torch.tensor([0, first + 6], dtype=torch.int32)
        input_ids = torch.tensor([*before, 0, 0, 0, 0, 0, 0])
        target_ids = torch.tensor([31, 32])
        audio_index = first + torch.tensor([2, 3, 4, 5, 0, 1])
        waveform_lengths = torch.tensor([7680, 3840])
        waveform_starts = torch.tensor([0, -1])

    def line(label: int, start: float, end: float) -> Any:
        return practice.Line(0, [label], (0, 0), start, end, range(0))

    heard = practice.seconds_heard(Rows(), 2)
    assert heard.tolist() == pytest.approx([*([-1.0] * (first + 2)), 0.06, 0.18, 0.30, 0.42])
    lines = [line(0, 0.0, 0.2), line(1, 0.1, 0.4), line(0, 0.0, 0.1)]
    asked, token = practice.speakers_heard(Rows(), lines, heard, tokenizer, 2)
    assert (asked - first).tolist() == [0, 1, 2, 4]
    assert token.tolist() == [*tokenizer.encode_piece("2") * 2, 31, 32]


def test_pointing_is_right_where_attention_is_on_the_time(practice: ModuleType) -> None:
    """Two samples of five positions; keys differ, and a query like one of them looks there alone."""

    class Rows:
        cu_seqlens = torch.tensor([0, 5, 10], dtype=torch.int32)

    heard = torch.tensor([-1.0, 0.06, 0.18, -1.0, -1.0] * 2)
    keys = 30.0 * torch.eye(10)

    def loss(position: int, until: float = 0.3) -> float:
        heads = practice.Heads()
        query = torch.zeros(2, 10, 10)
        query[:, 8] = torch.eye(10)[position]
        heads.found = [(query, keys)]
        return float(practice.point_loss(heads, Rows(), torch.tensor([8]), torch.tensor([[0.3, until]]), heard))

    assert loss(7) == pytest.approx(0.0, abs=1e-4)  # 0.18 s in the same sample
    assert loss(6) > 5
    assert loss(6, until=9.0) > 5  # 0.06 s is before 0.3 s whenever the span ends
    assert loss(2) > 1  # the other sample is not seen


def test_practice_trains_all_but_the_encoder_and_is_what_the_recipe_loads(
    parts: Path, made: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(parts, tmp_path / "llm")
    made.extend([recipe], parts / "base" / "llm", parts / "run", tmp_path, steps=12, seed=0)
    assert "dialogues step 12/12" in capsys.readouterr().out
    assert (tmp_path / "done").exists()
    model = build_model(recipe.model)
    load_own_weights(model, tmp_path / "run")  # raises if the weights are not of this LLM
    untrained = build_model(
        replace(recipe.model, llm=replace(recipe.model.llm, checkpoint=str(parts / "base" / "llm")))
    )
    load_own_weights(untrained, parts / "run", may_lack=ZERO_AT_START)
    before, after = untrained.state_dict(), model.state_dict()
    changed = {n for n in before if before[n].shape != after[n].shape or not torch.equal(before[n], after[n])}
    assert not [n for n in changed if n.startswith("encoder.")]
    assert {"audio_projector.time.weight", "llm.model.layers.0.mlp.up_proj.base_layer.weight"} <= changed
    assert any("lora_B" in n for n in changed)


@pytest.mark.parametrize("missing", ["llm", "run"])
def test_a_missing_folder_is_a_typed_error(parts: Path, made: ModuleType, tmp_path: Path, missing: str) -> None:
    given = {"llm": parts / "base" / "llm", "run": parts / "run"} | {missing: tmp_path / "nowhere"}
    with pytest.raises(ModelError, match="nowhere: no "):
        made.extend([recipe_of(parts, tmp_path / "llm")], given["llm"], given["run"], tmp_path, steps=1, seed=0)


def test_one_batch_is_learned(parts: Path, practice: ModuleType, extended: tuple[Path, torch.Tensor]) -> None:
    from pipeline.standins.optimize import optimize

    llm, vectors = extended
    batch, tokenizer, recipe = dialogue_batch(parts, llm)
    model = build_model(recipe.model)
    with torch.no_grad():
        model.audio_projector.time.weight.copy_(2 * vectors)
    practice.prepare(model)
    tokens = practice.time_tokens(tokenizer)

    def losses() -> dict[str, torch.Tensor]:
        return practice.losses_of(model, batch, tokenizer, tokens)

    first = {name: value.item() for name, value in losses().items()}
    optimize("one", [p for p in model.parameters() if p.requires_grad], lambda step: losses(), 40, 3e-3)
    last = {name: value.item() for name, value in losses().items()}
    assert first.keys() == last.keys() == {"words", "read", "who", "point"}
    assert last["words"] < 0.7 * first["words"], (first, last)
    assert last["read"] < 0.8 * first["read"], (first, last)
    assert last["point"] < first["point"], (first, last)
    assert last["who"] < 0.9 * first["who"], (first, last)
