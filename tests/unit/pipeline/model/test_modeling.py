"""The whole model on packed micro-batches: nothing leaks, sums add up, frozen is frozen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import cross_entropy

from pipeline.model.build import build_model, load_tokenizer, set_trainable
from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
from pipeline.prompts import Mode, PromptTokenizer
from pipeline.stages import STAGES, Checkpointing, module_of
from shards.errors import AudioError, ModelError
from tests.support.packed import Example, example, pack
from tests.support.tiny import TinyBase, make_base, model_config

EXAMPLES = (
    example(Mode.MATCH, ("Mike", "Lucy"), "Mike: hi\nLucy: fine", 12000, seed=1),
    example(Mode.NO, (), "spk0: 你好，世界", 7300, seed=2),
    example(Mode.OVER, ("Jack", "Rose", "Andy"), "Rose: yes", 16000, seed=3),
    example(Mode.ASR, (), "one two three", 400, seed=4),
)


@pytest.fixture(scope="module")
def tokenizer(base: TinyBase) -> PromptTokenizer:
    return load_tokenizer(model_config(base))


@pytest.fixture
def model(base: TinyBase) -> SpeakerLMForConditionalGeneration:
    model = build_model(model_config(base))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:  # as if trained: with B at zero A has no gradient to compare
            parameter.data.normal_(0, 0.05, generator=generator)
    set_trainable(model, STAGES[4])
    return model


def run(model: SpeakerLMForConditionalGeneration, examples: tuple[Example, ...], tokenizer: PromptTokenizer):
    """Loss and gradients of a packed micro-batch."""
    model.zero_grad()
    loss = model(**pack(examples, tokenizer)).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def test_packed_equals_the_sum_of_examples_alone(model, tokenizer) -> None:
    loss, gradients = run(model, EXAMPLES, tokenizer)
    alone = [run(model, (e,), tokenizer) for e in EXAMPLES]
    assert abs(loss / sum(a[0] for a in alone) - 1) < 1e-5
    for name, gradient in gradients.items():
        expected = sum(a[1][name] for a in alone)
        assert (gradient - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item()), name


def test_equal_to_a_plain_computation_with_transformers_alone(model, tokenizer) -> None:
    """One example, no packing: sdpa, logits everywhere, torch's cross-entropy."""
    batch = pack(EXAMPLES[:1], tokenizer)
    model.eval()
    embeds = model.embed(
        **{
            k: batch[k]
            for k in ("waveforms", "waveform_lengths", "input_ids", "audio_index", "speaker_vectors", "speaker_index")
        }
    )
    logits = model.llm(inputs_embeds=embeds[None], use_cache=False).logits[0]
    expected = cross_entropy(logits[batch["target_index"]], batch["target_ids"], reduction="sum")
    assert abs(model(**batch).loss.item() / expected.item() - 1) < 1e-6


@pytest.mark.parametrize("changed", range(len(EXAMPLES)))
def test_changing_one_example_changes_no_other(model, tokenizer, changed: int) -> None:
    def losses(examples: tuple[Example, ...]) -> list[float]:
        batch = pack(examples, tokenizer)
        out = []
        for a, b in zip(batch["cu_seqlens"], batch["cu_seqlens"][1:], strict=False):
            mine = (batch["target_index"] >= a) & (batch["target_index"] < b)
            part = {**batch, "target_index": batch["target_index"][mine], "target_ids": batch["target_ids"][mine]}
            out.append(model(**part).loss.item())
        return out

    other = list(EXAMPLES)
    noise = torch.randn(len(EXAMPLES[changed].waveform), generator=torch.Generator().manual_seed(9))
    other[changed] = dataclasses.replace(
        EXAMPLES[changed], waveform=0.3 * noise, vectors=EXAMPLES[changed].vectors * -2 + 1
    )
    before, after = losses(EXAMPLES), losses(tuple(other))
    for i, (x, y) in enumerate(zip(before, after, strict=True)):
        assert (x == pytest.approx(y, rel=1e-6)) is (i != changed), (i, x, y)


def test_one_call_of_every_module_whatever_is_registered(model, tokenizer) -> None:
    watched = {"encoder": model.encoder, "audio": model.audio_projector, "speaker": model.speaker_projector}
    watched |= {"llm": model.llm.get_decoder(), "embed": model.llm.get_input_embeddings()}
    for examples in (EXAMPLES[1:2], EXAMPLES[:1], EXAMPLES):
        calls = dict.fromkeys(watched, 0)

        def count(name: str, calls: dict[str, int] = calls):
            return lambda *_: calls.update({name: calls[name] + 1})

        hooks = [m.register_forward_pre_hook(count(n)) for n, m in watched.items()]
        run(model, examples, tokenizer)
        for hook in hooks:
            hook.remove()
        assert set(calls.values()) == {1}, calls


def test_without_registration_the_speaker_projector_has_a_gradient_of_zero(model, tokenizer) -> None:
    _, gradients = run(model, EXAMPLES[1:2], tokenizer)
    assert not gradients["speaker_projector.weight"].any()
    assert not gradients["speaker_projector.bias"].any()
    assert gradients["audio_projector.conv.weight"].any()


def test_no_targets_and_weight_zero_give_zero_gradients_everywhere(model, tokenizer) -> None:
    batch = pack(EXAMPLES[:1], tokenizer)
    for change in ({"weight": 0.0}, {"target_index": batch["target_index"][:0], "target_ids": batch["target_ids"][:0]}):
        model.zero_grad()
        loss = model(**{**batch, **change}).loss
        loss.backward()
        assert loss.item() == 0
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert not parameter.grad.any(), name


@pytest.mark.parametrize("number", STAGES)
def test_exactly_the_stages_parameters_learn(model, tokenizer, number: int) -> None:
    names = set_trainable(model, STAGES[number])
    _, gradients = run(model, EXAMPLES, tokenizer)
    assert set(gradients) == set(names)
    assert {module_of(n) for n, g in gradients.items() if g.any()} == STAGES[number].trains
    assert all(p.grad is None for n, p in model.named_parameters() if n not in gradients)


@pytest.mark.parametrize("number", STAGES)
def test_frozen_modules_are_in_eval_mode(base: TinyBase, number: int) -> None:
    model = build_model(model_config(base, dropout=0.5))
    set_trainable(model, STAGES[number])
    active = {
        module_of(f"{name}.lora_" if "lora_dropout" in name else name)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Dropout) and module.training and module.p > 0
    }
    if model.audio_projector.layers[0].training:
        active.add("audio_projector")
    assert active == STAGES[number].trains - {"speaker_projector"}
    assert not any(m.training for n, m in model.named_modules() if n.startswith("llm") and "lora_dropout" not in n)


@pytest.mark.parametrize(
    ("setting", "encoder_calls", "llm_calls"),
    [
        (Checkpointing(encoder=True, llm_every=1), 2, [2, 2]),
        (Checkpointing(llm_every=2), 1, [2, 1]),
        (Checkpointing(encoder=True), 2, [1, 1]),
    ],
    ids=str,
)
@pytest.mark.parametrize("number", STAGES)
def test_activation_checkpointing_changes_nothing_and_is_used(
    base: TinyBase, tokenizer, number: int, setting: Checkpointing, encoder_calls: int, llm_calls: list[int]
) -> None:
    cfg = model_config(base)
    plain = build_model(cfg)
    set_trainable(plain, STAGES[number])
    expected = run(plain, EXAMPLES, tokenizer)
    model = build_model(dataclasses.replace(cfg, activation_checkpointing=setting))
    set_trainable(model, STAGES[number])
    layers = model.llm.get_decoder().layers
    watched = [*(layer.self_attn for layer in layers), model.audio_projector.layers[0].qkv]
    calls = [0] * len(watched)

    def count(number: int) -> Callable[..., None]:
        def run_hook(*_: object) -> None:
            calls[number] += 1

        return run_hook

    for i, module in enumerate(watched):
        module.register_forward_pre_hook(count(i))
    loss, gradients = run(model, EXAMPLES, tokenizer)
    assert calls == [*llm_calls, encoder_calls]  # once forward, once again in backward
    assert loss.item() == pytest.approx(expected[0].item(), rel=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected[1][name], atol=1e-5), name


def test_padding_frames_to_a_multiple_changes_no_value(base: TinyBase, tokenizer) -> None:
    cfg = model_config(base)
    plain = build_model(cfg)
    set_trainable(plain, STAGES[4])
    expected = run(plain, EXAMPLES, tokenizer)
    model = build_model(dataclasses.replace(cfg, encoder=dataclasses.replace(cfg.encoder, frame_multiple=64)))
    set_trainable(model, STAGES[4])
    frames = []
    model.audio_projector.register_forward_pre_hook(lambda _, args: frames.append(args[0].shape[1]))
    loss, gradients = run(model, EXAMPLES, tokenizer)
    assert frames == [64]
    assert loss.item() == pytest.approx(expected[0].item(), rel=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected[1][name], atol=1e-5), name


def test_generation_of_a_batch_equals_each_prompt_alone(model, tokenizer) -> None:
    from pipeline.prompts import Prompt, prompt_pieces

    prompts = [Prompt(tuple(prompt_pieces(e.mode, e.names)), e.waveform.numpy(), e.vectors.numpy()) for e in EXAMPLES]
    together = model.generate_text(prompts, tokenizer, max_new_tokens=12)
    assert together == [model.generate_text([p], tokenizer, max_new_tokens=12)[0] for p in prompts]
    assert len(set(together)) > 1
    assert model.training
    assert model.generate_text([], tokenizer) == []


def test_generation_continues_as_teacher_forcing_predicts(model, tokenizer) -> None:
    """Greedy text fed back as the target is the argmax at every target position: cache and packing agree."""
    from pipeline.model.processing_speakerlm import SpeakerLMProcessor
    from pipeline.prompts import Prompt, prompt_pieces

    e = EXAMPLES[0]
    prompt = Prompt(tuple(prompt_pieces(e.mode, e.names)), e.waveform, e.vectors)
    model.eval()
    inputs = SpeakerLMProcessor(tokenizer, 2, 16).encode([prompt])
    ids = model.generate(**inputs, max_new_tokens=8, eos_token_id=tokenizer.eos, pad_token_id=tokenizer.pad)[0]
    batch = pack((dataclasses.replace(e, target=""),), tokenizer)
    batch["input_ids"] = torch.cat([batch["input_ids"], ids])
    names = ("waveforms", "waveform_lengths", "input_ids", "audio_index", "speaker_vectors", "speaker_index")
    logits = model.llm(inputs_embeds=model.embed(**{k: batch[k] for k in names})[None], use_cache=False).logits[0]
    assert logits[-len(ids) - 1 : -1].argmax(-1).tolist() == ids.tolist()


def test_generation_takes_what_transformers_does_and_ends_where_the_model_says(model, tokenizer) -> None:
    from transformers import GenerationConfig

    from pipeline.model.processing_speakerlm import SpeakerLMProcessor
    from pipeline.prompts import Prompt, prompt_pieces

    class Streamer:
        def __init__(self) -> None:
            self.ids: list[int] = []

        def put(self, ids: torch.Tensor) -> None:
            self.ids += ids.flatten().tolist()

        def end(self) -> None:
            pass

    e = EXAMPLES[0]
    inputs = SpeakerLMProcessor(tokenizer, 2, 16).encode(
        [Prompt(tuple(prompt_pieces(e.mode, e.names)), e.waveform, e.vectors)]
    )
    model.eval()
    free = model.generate(**inputs, max_new_tokens=6, eos_token_id=None)[0].tolist()
    given = GenerationConfig(max_new_tokens=6, do_sample=False)
    was = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=free[2], pad_token_id=tokenizer.pad)
    try:
        ended = model.generate(**inputs, generation_config=given)[0].tolist()
        streamer = Streamer()
        streamed = model.generate(**inputs, generation_config=given, max_new_tokens=2, streamer=streamer)[0].tolist()
        banned = model.generate(
            **inputs,
            max_new_tokens=1,
            logits_processor=[lambda ids, scores: scores.index_fill(1, torch.tensor(free[:1]), -1e9)],
        )[0].tolist()
    finally:
        model.generation_config = was
    assert ended == free[: free.index(free[2]) + 1]
    assert streamed == streamer.ids == free[:2]
    assert banned[0] != free[0]
    assert given.eos_token_id is None  # the caller's own is left alone
    assert given.max_new_tokens == 6


def test_too_short_audio_and_wrong_plans_are_typed_errors(model, tokenizer) -> None:
    batch = pack(EXAMPLES[:1], tokenizer)
    with pytest.raises(AudioError, match="400"):
        model(**{**batch, "waveform_lengths": torch.tensor([399])})
    with pytest.raises(ModelError, match="audio positions were planned"):
        model(**{**batch, "waveform_lengths": torch.tensor([8000])})
    with pytest.raises(ModelError, match="2 speaker vectors for 1"):
        model(**{**batch, "speaker_index": batch["speaker_index"][:1]})


def test_tied_embeddings_work(tmp_path, tokenizer) -> None:
    model = build_model(model_config(make_base(tmp_path, tied=True)))
    assert model.llm.lm_head.weight is model.llm.get_input_embeddings().weight
    set_trainable(model, STAGES[4])
    loss, _ = run(model, EXAMPLES, tokenizer)
    assert loss.isfinite()


def test_bf16_weights_train(base: TinyBase, tokenizer) -> None:
    reference = build_model(model_config(base))
    set_trainable(reference, STAGES[4])
    expected, _ = run(reference, EXAMPLES, tokenizer)
    model = build_model(model_config(base), dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    set_trainable(model, STAGES[4])
    loss, gradients = run(model, EXAMPLES, tokenizer)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    assert all(g.isfinite().all() for g in gradients.values())
