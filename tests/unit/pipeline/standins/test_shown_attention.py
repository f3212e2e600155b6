"""Attention whose weights are shown: transformers' eager computes the same."""

from pathlib import Path

import pytest
import torch

from pipeline.standins.exercises import Text
from pipeline.standins.packed_texts import Group, PackedTexts
from pipeline.standins.shown_attention import NAME, Shown
from pipeline.standins.train_llm import new_llm
from pipeline.standins.words import write_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    torch.manual_seed(0)
    return new_llm(write_tokenizer(Path(tmp_path_factory.mktemp("llm")), {"en": ["one", "two"]}))


def test_outputs_and_weights_of_chosen_layers_and_heads_are_eagers(model) -> None:
    texts = [Text(ids=[5, 0, 1, 2, 3, 4], target_from=6, pointed=[(4, 1, 3)]), Text(ids=[6, 1, 2], target_from=3)]
    packed = PackedTexts([Group(texts, 0.0)])
    embeds = torch.randn(1, 9, 128)
    shown = Shown((1, 3), 2)
    asked = {"position_ids": packed.position_ids.unsqueeze(0), "attention_mask": torch.ones(1, 1, 1, 1)}
    ours = model.model(inputs_embeds=embeds, use_cache=False, shown=shown, texts=packed, **asked).last_hidden_state[0]
    model.set_attn_implementation("eager")
    for rows in (slice(0, 6), slice(6, 9)):
        theirs = model.model(inputs_embeds=embeds[:, rows], use_cache=False, output_attentions=True)
        torch.testing.assert_close(ours[rows], theirs.last_hidden_state[0], atol=1e-5, rtol=1e-4)
        if rows.start == 0:
            for found, layer in zip(shown.weights, shown.layers, strict=True):
                torch.testing.assert_close(found[0], theirs.attentions[layer][0, :2, 4], atol=1e-6, rtol=1e-4)
    model.set_attn_implementation(NAME)
    assert len(shown.weights) == 2


def test_nothing_is_kept_where_nothing_is_asked(model) -> None:
    out = model.model(inputs_embeds=torch.randn(1, 4, 128), attention_mask=torch.zeros(1, 1, 4, 4), use_cache=False)
    assert out.attentions is None
