"""LoRA on the LLM, by peft."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.stages import module_of
from shards.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def add_lora(llm: PreTrainedModel, lora: dict[str, Any]) -> None:
    """Put LoRA into the LLM in place; B is zero, so the LLM's function is unchanged. Freezes the rest of it.

    Never under ``zero.Init``: there B comes out empty or non-zero. Adapters get the LLM's dtype, not peft's fp32.

    Raises:
        ModelError: no module of the LLM has one of the target names, or peft is not installed.
    """
    dtype = llm.dtype
    try:
        _peft().inject_adapter_in_model(lora_config(lora), llm)
    except ValueError as e:
        raise ModelError(f"lora.targets {lora['targets']} do not fit the LLM: {e}") from e
    for name, parameter in llm.named_parameters():
        if module_of(f"llm.{name}") == "lora":
            parameter.data = parameter.data.to(dtype)


def lora_config(lora: dict[str, Any]) -> Any:
    """peft's configuration of our LoRA settings: r, alpha, dropout, targets."""
    return _peft().LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=list(lora["targets"]),
        task_type="CAUSAL_LM",
    )


def _peft() -> Any:
    try:  # a model with LoRA merged into its weights runs without it
        import peft
    except ImportError as e:
        raise ModelError(f"the model has LoRA, and peft cannot be imported ({e}): pip install peft") from e
    return peft
