"""Any causal LM of transformers: packing and generation with several, and those that cannot be packed refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.model.build import build_model, load_tokenizer, set_trainable
from pipeline.model.processing_speakerlm import SpeakerLMProcessor
from pipeline.prompts import Mode, Prompt, prompt_pieces
from pipeline.recipe.schema import LlmConfig
from pipeline.stages import STAGES
from shards.errors import ModelError
from tests.support.architectures import make_causal_lm
from tests.support.packed import example, pack
from tests.support.tiny import TEXTS, TinyBase, make_tokenizer, model_config

EXAMPLES = (
    example(Mode.MATCH, ("Mike", "Lucy"), "Mike: hi\nLucy: fine", 12000, seed=1),
    example(Mode.NO, (), "spk0: 你好，世界", 7300, seed=2),
    example(Mode.ASR, (), "one two three", 3000, seed=4),
)
TARGETS = {"gpt_neox": ["query_key_value", "dense"], "gpt2": ["c_attn", "c_proj"]}
SUPPORTED = ["qwen2", "qwen3", "llama", "mistral", "gpt_neox", "gpt2"]


def make_model(base: TinyBase, folder: Path, kind: str, **conf: Any) -> tuple[Any, Any]:
    llm = make_causal_lm(make_tokenizer(folder / "llm", TEXTS), kind, **conf)
    cfg = replace(model_config(base), llm=LlmConfig(checkpoint=str(llm)))
    cfg.lora.targets = TARGETS.get(kind, cfg.lora.targets)
    model = build_model(cfg)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    set_trainable(model, STAGES[4])
    return model, load_tokenizer(cfg)


def run(model: Any, examples: tuple[Any, ...], tokenizer: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**pack(examples, tokenizer)).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", SUPPORTED)
def test_packed_equals_alone_and_a_batch_generates_as_each_alone(base: TinyBase, tmp_path: Path, kind: str) -> None:
    model, tokenizer = make_model(base, tmp_path, kind)
    loss, gradients = run(model, EXAMPLES, tokenizer)
    alone = [run(model, (e,), tokenizer) for e in EXAMPLES]
    assert abs(loss / sum(a[0] for a in alone) - 1) < 1e-5
    for name, gradient in gradients.items():
        expected = sum(a[1][name] for a in alone)
        assert (gradient - expected).abs().max() <= 2e-5 * max(1.0, expected.abs().max().item()), name

    prompts = [Prompt(tuple(prompt_pieces(e.mode, e.names)), e.waveform, e.vectors) for e in EXAMPLES]
    processor = SpeakerLMProcessor(tokenizer, 2, 16)
    ends = {"eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad, "max_new_tokens": 8}
    model.eval()
    together = processor.batch_decode(model.generate(**processor.encode(prompts), **ends))
    assert together == [processor.batch_decode(model.generate(**processor.encode([p]), **ends))[0] for p in prompts]
    uncached = model.generate(**processor.encode(prompts), **ends, use_cache=False)
    assert processor.batch_decode(uncached) == together


@pytest.mark.parametrize(
    ("kind", "conf", "says"),
    [
        ("bloom", {"n_layer": 2}, "BloomForCausalLM computes attention in its own way"),
        ("qwen3_next", {"layer_types": ["linear_attention", "full_attention"]}, "in its own way"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "layers of conv, which would mix"),
    ],
)
def test_what_cannot_be_packed_is_refused(base: TinyBase, tmp_path: Path, kind: str, conf: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        make_model(base, tmp_path, kind, **conf)


@pytest.mark.parametrize(
    ("kind", "conf", "says"),
    [
        ("mistral", {"sliding_window": 20}, "window of 20 positions and a sample has"),
        ("gemma2", {"head_dim": 16}, "softcap"),
    ],
)
def test_attention_that_no_kernel_computes_is_refused(
    base: TinyBase, tmp_path: Path, kind: str, conf: Any, says: str
) -> None:
    model, tokenizer = make_model(base, tmp_path, kind, **conf)
    with pytest.raises(ModelError, match=says):
        model(**pack(EXAMPLES, tokenizer))


def test_a_checkpoint_that_is_no_causal_lm_is_refused(base: TinyBase, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    llm = make_tokenizer(tmp_path / "llm", TEXTS)
    BertModel(
        BertConfig(vocab_size=600, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(str(llm))
    cfg = replace(model_config(base), llm=LlmConfig(checkpoint=str(llm)))
    with pytest.raises(ModelError, match=r"weights do not fit|is not a decoder"):
        build_model(cfg)
    (llm / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(ModelError, match="not a causal LM that transformers can load"):
        build_model(cfg)


def test_a_prompt_longer_than_the_llm_says_what_it_holds(base: TinyBase, tmp_path: Path) -> None:
    model, tokenizer = make_model(base, tmp_path, "qwen2", max_position_embeddings=64)
    prompt = Prompt(tuple(prompt_pieces(Mode.MATCH, ["Mike"])), EXAMPLES[0].waveform, EXAMPLES[0].vectors[:1])
    inputs = SpeakerLMProcessor(tokenizer, 2, 16).encode([prompt])
    with pytest.raises(ModelError, match=r"1 registered speakers\) and 500 new tokens do not fit the LLM's 64"):
        model.generate(**inputs, max_new_tokens=500)
