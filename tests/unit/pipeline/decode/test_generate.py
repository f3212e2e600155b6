"""Greedy decoding of a batch: limits, loops, the cache, devices."""

from __future__ import annotations

import pytest
import torch

from pipeline.decode.generate import ask, choose_device
from pipeline.model.stopping import Guards
from pipeline.ranks.memory import peak_bytes
from shards.errors import ConfigError
from tests.support.prompts import noise_prompt as prompt


def test_endless_answer_is_stopped_by_the_limit_of_its_audio(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    guards = Guards(tokens_per_second=10, least_tokens=2, repeats=1000, shortest_run=1000)
    short, long = ask(model, tokenizer, [prompt(0.5), prompt(2.0, 1)], guards)
    assert (short.stop, short.tokens) == ("limit", 7)
    assert (long.stop, long.tokens) == ("limit", 22)
    assert ask(model, tokenizer, [], guards) == []


def test_looping_answer_is_stopped(model_and_tokenizer):
    """The output layer is bent so that one token always wins."""
    model, tokenizer = model_and_tokenizer
    head = model.llm.get_output_embeddings().weight
    kept = head.detach().clone()
    token = tokenizer.encode_piece("yes")[0]
    hidden: list[torch.Tensor] = []
    hook = model.llm.get_decoder().register_forward_hook(
        lambda _m, _i, out: hidden.append(out.last_hidden_state[0, -1])
    )
    try:
        ask(model, tokenizer, [prompt(1.0)], Guards(max_new_tokens=1))
        with torch.no_grad():
            head.zero_()
            head[token] = hidden[0]
        (answer,) = ask(model, tokenizer, [prompt(1.0)])
    finally:
        hook.remove()
        with torch.no_grad():
            head.copy_(kept)
    assert answer.stop == "loop"
    assert answer.tokens == 16
    assert answer.text == (tokenizer.decode([token]) * 16).strip()


def test_generation_uses_its_cache(model_and_tokenizer):
    """After the prompt, one position goes through the LLM for each token."""
    model, tokenizer = model_and_tokenizer
    widths: list[int] = []
    layer = model.llm.get_decoder().layers[0]
    hook = layer.register_forward_hook(lambda _m, args, _out: widths.append(args[0].shape[1]))
    try:
        (answer,) = ask(model, tokenizer, [prompt(0.5)], Guards(max_new_tokens=5, repeats=1000))
    finally:
        hook.remove()
    assert widths[0] > 5
    assert widths[1:] == [1] * (answer.tokens - 1)


def test_devices():
    assert peak_bytes() > 2**20
    assert choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        assert choose_device() == "cpu"
        with pytest.raises(ConfigError, match="no GPU"):
            choose_device("cuda")
