"""Guards against endless text; answers do not depend on when their neighbours in the batch end."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.decode.generate import ask, choose_device
from pipeline.model.stopping import AnswerTokens, Guards, LoopStoppingCriteria
from pipeline.prompts import Mode, Prompt, prompt_pieces
from pipeline.ranks.memory import peak_bytes
from shards.errors import ConfigError

EOS = 0


def feed(rows: list[list[int]], limits: list[int] | None = None, **guards: int) -> tuple[list[int], list[bool]]:
    """Lengths and loops after these tokens, which all rows get step by step; a row that has ended gets end tokens."""
    longest = max(map(len, rows))
    watch = LoopStoppingCriteria(limits or [1000] * len(rows), EOS, Guards(**guards))
    ids = torch.tensor([row + [EOS] * (longest - len(row)) for row in rows])
    for step in range(1, longest + 1):
        watch(ids[:, :step], None)
    return watch.ends()


def test_loop_is_detected_after_too_many_repeats():
    said = [9, 8, 7, 6, 5]
    lengths, loops = feed([said + [1, 2, 3] * 40, said + [4] * 60, list(range(1, 90))])
    assert loops == [True, True, False]
    assert lengths[0] == len(said) + 3 * 11  # ten times are allowed
    assert lengths[1] == len(said) + 16  # a short n-gram needs sixteen tokens


@pytest.mark.parametrize("period", [1, 2, 5, 17, 64])
def test_loops_of_any_length_up_to_the_longest_are_found(period: int):
    gram = list(range(1, period + 1))
    assert feed([gram * 30])[1] == [True]
    assert feed([gram * 10])[1] == [False]


def test_longer_n_grams_are_stopped_by_the_limit():
    assert feed([list(range(1, 66)) * 20], limits=[900]) == ([900], [False])


@pytest.mark.parametrize("seed", range(4))
def test_one_answer_is_guarded_as_a_row_of_a_batch(seed: int):
    """Random tokens of a small vocabulary, with loops in them: the same length and the same reason."""
    rng = np.random.default_rng(seed)
    guards = Guards(repeats=int(rng.integers(2, 5)), longest=8, shortest_run=6)
    for _ in range(100):
        said = [*rng.integers(1, 4, 6), *np.tile(rng.integers(1, 4, rng.integers(1, 10)), 6), *rng.integers(0, 4, 20)]
        row, limit = [int(token) for token in said], int(rng.integers(1, 80))
        watch = LoopStoppingCriteria([limit], EOS, guards)
        for step in range(1, len(row) + 1):
            watch(torch.tensor([row[:step]]), None)
        one = AnswerTokens(limit, EOS, guards)
        cut = int(rng.integers(0, len(row)))
        assert one.extend(row[:cut]) == (one.stop is not None)
        one.extend(row[cut:])
        (length,), (looped,) = watch.ends()
        wanted = None if not length else "loop" if looped else "end" if row[length - 1] == EOS else "limit"
        assert one.stop == wanted
        assert one.ids == (row[:length] if wanted else row)


def test_finished_row_does_not_count_as_a_loop():
    lengths, loops = feed([[1, 2, EOS], list(range(1, 80))])
    assert (lengths, loops) == ([3, 0], [False, False])


def test_the_limit_grows_with_the_audio():
    guards = Guards(tokens_per_second=10, least_tokens=5, max_new_tokens=100)
    assert [guards.limit(n * 16_000) for n in (0, 1, 3, 60)] == [5, 15, 35, 100]


def test_each_row_has_its_own_limit():
    assert feed([list(range(1, 30))] * 2, limits=[7, 20]) == ([7, 20], [False, False])


@pytest.fixture(scope="module")
def model_and_tokenizer(tmp_path_factory: pytest.TempPathFactory):
    from pipeline.model.build import build_model, load_tokenizer
    from tests.support.tiny import make_base, model_config

    config = model_config(make_base(tmp_path_factory.mktemp("base")))
    return build_model(config), load_tokenizer(config)


def prompt(seconds: float, seed: int = 0) -> Prompt:
    wave = np.random.default_rng(seed).standard_normal(int(seconds * 16_000)).astype(np.float32) * 0.1
    return Prompt(tuple(prompt_pieces(Mode.NO)), wave)


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
