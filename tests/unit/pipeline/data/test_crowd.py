"""A hundred strangers registered with a clip: within the 7B recipe's budget, from the speaker bank to the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.data.index_rows import DatasetSource
from pipeline.data.lengths import build_lengths
from pipeline.data.loader import Loader, SampleReader
from pipeline.data.plan import Plan
from pipeline.data.planned import PlanSettings
from pipeline.data.token_counter import TokenCounter
from pipeline.model.build import build_model
from pipeline.prompts import Mode, PromptTokenizer
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import LlmConfig, RegistrationConfig
from pipeline.recipe.shipped import CHECKOUT
from tests.support.architectures import make_causal_lm
from tests.support.datasets import make_dataset
from tests.support.planning import samples_of
from tests.support.qwen import write_qwen_tokenizer
from tests.support.tiny import make_base, model_config

CROWD = 100
ROOM = 4  # people in the clip


@pytest.mark.parametrize("names", ["pools", "corpus"])
def test_a_hundred_distractors_fit_and_train(names: str, tmp_path: Path) -> None:
    recipe = load_recipe(CHECKOUT / "launch" / "recipes" / "speakerlm-7b" / "stage4.yaml")
    data = recipe.data
    data.registration = RegistrationConfig(max_distractors=CROWD, names=names)
    dataset = make_dataset(
        tmp_path / "data", samples=2, speakers_per_sample=(ROOM, ROOM), seconds=(49.0, 50.0), pool_size=150
    )
    base = make_base(tmp_path / "base")
    llm = write_qwen_tokenizer(tmp_path / "qwen")
    make_causal_lm(
        llm, "qwen2", hidden_size=32, intermediate_size=64, num_hidden_layers=1, max_position_embeddings=8192
    )
    tokenizer = PromptTokenizer.from_folder(llm)
    build_lengths(dataset, tokenizer)
    share = data.train[0]
    share.path = dataset.url
    settings = PlanSettings(1, True, 2, tokenizer.hash, data, 1, (Mode.OVER,), n_ov=CROWD)

    def plan() -> Plan:
        return Plan([DatasetSource(dataset, tokenizer.hash)], [share], settings, TokenCounter(tokenizer))

    planned = samples_of(list(plan()))
    assert [len(p.names) for p in planned] == [ROOM + CROWD] * 2  # all speakers and samples are planned
    assert all(len(set(p.names)) == ROOM + CROWD for p in planned)
    assert max(p.positions for p in planned) <= data.max_positions
    print(f"{names}: {max(p.positions for p in planned)} of {data.max_positions} positions")

    (step,) = Loader(plan(), SampleReader([dataset], tokenizer, 2, 192))
    batch = next(b for b in step.micro_batches if b.weight)
    count = len(batch.cu_seqlens) - 1
    assert batch.speaker_vectors.shape == (count * (ROOM + CROWD), 192)
    assert len(torch.unique(batch.speaker_vectors, dim=0)) >= ROOM + CROWD  # of that many people
    model = build_model(_of_size(base, llm)).train()
    loss = model(**batch.model_inputs()).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert model.speaker_projector.weight.grad.abs().sum() > 0


def _of_size(base: object, llm: Path) -> object:
    config = model_config(base, speaker_dim=192)  # type: ignore[arg-type]
    config.llm = LlmConfig(checkpoint=str(llm))
    return config
