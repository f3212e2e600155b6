"""Attention whose weights are shown: transformers' eager computes the same."""

from pathlib import Path

import pytest
import torch

from pipeline.standins.shown_attention import NAME, Shown
from pipeline.standins.train_llm import new_llm
from pipeline.standins.words import write_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    torch.manual_seed(0)
    return new_llm(write_tokenizer(Path(tmp_path_factory.mktemp("llm")), {"en": ["one", "two"]}))


def test_outputs_and_weights_of_chosen_layers_and_heads_are_eagers(model) -> None:
    embeds = torch.randn(2, 9, 128)
    asked = {"inputs_embeds": embeds}
    asked["attention_mask"] = torch.full((2, 1, 9, 9), -1e9).triu(1)
    shown = Shown((1, 3), 2)
    model.set_attn_implementation(NAME)
    ours = model.model(**asked, use_cache=False, shown=shown).last_hidden_state
    model.set_attn_implementation("eager")
    theirs = model.model(**asked, use_cache=False, output_attentions=True)
    model.set_attn_implementation(NAME)
    torch.testing.assert_close(ours, theirs.last_hidden_state, atol=1e-5, rtol=1e-4)
    assert len(shown.weights) == 2
    for found, layer in zip(shown.weights, shown.layers, strict=True):
        torch.testing.assert_close(found, theirs.attentions[layer][:, :2], atol=1e-6, rtol=1e-4)


def test_nothing_is_kept_where_nothing_is_asked(model) -> None:
    model.set_attn_implementation(NAME)
    out = model.model(inputs_embeds=torch.randn(1, 4, 128), attention_mask=torch.zeros(1, 1, 4, 4), use_cache=False)
    assert out.attentions is None
