"""LoRA on the LLM: peft's modules, their forward with fewer kernels.

peft adds ``B(A(dropout(x))) * scale`` to the frozen layer's output: a product, a multiplication and an addition over
the whole width of the output. Here the second product writes into the sum with its scale, as one ``addmm``.
"""

from __future__ import annotations

import weakref
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.model.loss import run_as
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
    for module in llm.modules():
        if isinstance(module, _peft().tuners.lora.Linear):
            vars(module)["forward"] = MethodType(_fused_forward, module)
    if lora.get("shared_dropout") and lora["dropout"]:
        _share_dropout(llm, lora["dropout"])


def _fused_forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """As peft's forward of a linear layer; what is not plain LoRA in training or decoding is left to peft's own."""
    name = self.active_adapters[0] if len(self.active_adapters) == 1 else ""
    plain = name in self.lora_A and name not in self.lora_variant and not (args or kwargs)
    if self.disable_adapters or self.merged or not plain or x.dtype != self.lora_A[name].weight.dtype:
        out: Tensor = type(self).forward(self, x, *args, **kwargs)
        return out
    frozen = self.base_layer(x)
    low = self.lora_A[name](self.lora_dropout[name](x))
    b, scale = self.lora_B[name], self.scaling[name]

    def add(low: Tensor, frozen: Tensor) -> Tensor:
        return torch.addmm(frozen, low, b.weight.t(), alpha=scale)

    # As b's own forward: between its hooks ZeRO-3 has its weight.
    added: Tensor = run_as(b, add, low.flatten(0, -2), frozen.flatten(0, -2))
    return added.view_as(frozen)


class SharedDropout(nn.Dropout):
    """Dropout whose mask is one for all adapters that read the same tensor, such as those of q, k and v.

    Backward keeps an adapter's input; so it keeps one in place of three, or two.
    """

    def __init__(self, p: float) -> None:
        super().__init__(p)
        self._seen: weakref.ref[Tensor] | None = None
        self._dropped: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The same output for the same tensor, as long as it lives."""
        if not (self.training and self.p):
            return x
        if self._seen is None or self._seen() is not x or self._dropped is None:
            self._seen, self._dropped = weakref.ref(x, self._forget), super().forward(x)
        return self._dropped

    def _forget(self, which: weakref.ref[Tensor]) -> None:
        if which is self._seen:
            self._seen = self._dropped = None


def _share_dropout(llm: nn.Module, rate: float) -> None:
    """Give the adapters of one parent module one dropout."""
    for parent in llm.modules():
        adapters = [m for m in parent.children() if isinstance(m, _peft().tuners.lora.Linear)]
        shared = SharedDropout(rate)
        for adapter in adapters:
            for name in adapter.lora_dropout:
                adapter.lora_dropout[name] = shared


def merge_lora(llm: nn.Module) -> None:
    """Add LoRA to the weights that it adapts, in place, for a model that is not trained further.

    A token then costs a product for each layer instead of three. Outputs are equal up to rounding.
    """
    child: Any
    for parent in list(llm.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "lora_A"):
                child.merge()
                setattr(parent, name, child.get_base_layer())


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
