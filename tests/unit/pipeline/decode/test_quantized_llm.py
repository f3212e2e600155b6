"""The folder of an LLM that was quantized before: what is refused, and what identifies it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.decode.quantized_llm import quantized_llm
from shards.errors import ModelError

LLM = {
    "model_type": "qwen2", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 100,
}  # fmt: skip


def folder(path: Path, **config: Any) -> Path:
    (path / "llm").mkdir(exist_ok=True)
    (path / "llm" / "config.json").write_text(json.dumps(LLM | config))
    (path / "llm" / "model.safetensors").write_bytes(b"weights")
    return path


def test_a_model_without_one_has_none(tmp_path: Path) -> None:
    assert quantized_llm(tmp_path, LLM) is None


def test_its_method_and_identity(tmp_path: Path) -> None:
    found = quantized_llm(folder(tmp_path, quantization_config={"quant_method": "awq"}), LLM)
    assert found is not None
    assert (found.folder, found.method) == (tmp_path / "llm", "awq")
    (tmp_path / "llm" / "model.safetensors").write_bytes(b"WEIGHTS")
    other = quantized_llm(tmp_path, LLM)
    assert other is not None
    assert other.identity != found.identity


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "has no quantization_config"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "--engine transformers --quantize nf4"),
        ({"quantization_config": {"quant_method": "awq"}, "hidden_size": 9}, "hidden_size is 9, the model has 8"),
        ({"quantization_config": "awq"}, "cannot be read"),
    ],
)
def test_folders_that_vllm_cannot_take_are_refused(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        quantized_llm(folder(tmp_path, **config), LLM)


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    (folder(tmp_path) / "llm" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read .* quantize the LLM again"):
        quantized_llm(tmp_path, LLM)
