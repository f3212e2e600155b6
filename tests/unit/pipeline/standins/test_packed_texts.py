"""Texts one after the other: attention of each is that of the text alone."""

import random
from pathlib import Path

import pytest
import torch

from pipeline.prompts import Mode, PromptTokenizer
from pipeline.standins.exercises import Exercise, Text, make_text
from pipeline.standins.packed_texts import Group, PackedTexts, common_tokens
from pipeline.standins.words import write_tokenizer

WORDS = {"en": ["one", "two", "six"], "it": ["uno", "due"]}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[Text]:
    tokenizer: PromptTokenizer = write_tokenizer(Path(tmp_path_factory.mktemp("llm")), WORDS)
    rng = random.Random(1)
    kinds = [("talk", Mode.NO), ("talk", Mode.MATCH), ("talk", Mode.OVER), ("match", Mode.MATCH), ("talk", Mode.ASR)]
    return [make_text(rng, tokenizer, WORDS, Exercise(*kind)) for kind in kinds]


def mask_of(text: Text, hide: bool) -> torch.Tensor:
    seen = torch.ones(len(text.ids), len(text.ids), dtype=torch.bool).tril()
    if hide:
        seen[text.seen_from :, text.hidden] = False
    return seen


@pytest.mark.parametrize("hide", [False, True])
def test_attention_is_that_of_each_text_alone(texts: list[Text], hide: bool) -> None:
    packed = PackedTexts([Group(texts[:3], 0.0), Group(texts[3:], 0.0)], hide)
    common = common_tokens(texts)
    assert common > 5
    assert packed.total == sum(len(t.ids) for t in texts) - common * (len(texts) - 1)
    torch.manual_seed(0)
    q, k, v = (torch.randn(h, packed.total, 8, requires_grad=True) for h in (4, 2, 2))
    found = packed.attend(q, k, v, 0.3)
    points = iter(zip(packed.weights(q[:2], k[0], 0.3), packed.first, packed.end, strict=True))
    expected = torch.zeros_like(found)
    for which in (0, 1):
        for text, start in packed.of(which):
            row = torch.tensor([p if p < common else start + p for p in range(len(text.ids))])
            assert packed.ids[row].tolist() == text.ids
            assert packed.position_ids[row].tolist() == list(range(len(text.ids)))
            scores = (q[:, row] @ k.repeat_interleave(2, 0)[:, row].transpose(1, 2)) * 0.3
            weights = scores.masked_fill(~mask_of(text, hide), float("-inf")).softmax(-1)
            expected[row] = (weights @ v.repeat_interleave(2, 0)[:, row]).transpose(0, 1)
            for at, first, end in text.pointed:
                own, *span = next(points)
                assert [int(s) for s in span] == [first, end]
                torch.testing.assert_close(own[:, : len(row)], weights[:2, at])
                assert not own[:, len(row) :].any()
    torch.testing.assert_close(found, expected)
    assert next(points, None) is None
    gradients = [torch.autograd.grad(x.square().sum(), (q, k, v), retain_graph=True) for x in (found, expected)]
    torch.testing.assert_close(*gradients)
