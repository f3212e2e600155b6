"""The tensors of a finished run's model, from the files that hold them, read one at a time.

The LLM's base comes from its own safetensors files, everything else from the run's ``weights/model.safetensors``.
Names and shapes are those of the model built on torch's meta device, where tensors have no memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint.safetensors_file import LazyTensor
from pipeline.model.tensor_files import TensorFiles
from pipeline.stages import module_of
from shards.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.model.configuration_speakerlm import SpeakerLMConfig


@dataclass(frozen=True)
class Adapter:
    """LoRA of one layer."""

    a: str  # names of its two matrices among the own weights
    b: str
    scale: float  # alpha / r
    transposed: bool  # the layer's weight is (in, out), as in GPT-2


@dataclass(frozen=True)
class Skeleton:
    """Names and shapes of a model's tensors, and what LoRA adds to which."""

    shapes: dict[str, tuple[int, ...]]
    adapters: dict[str, Adapter]  # by name of the weight that they change


def skeleton(config: SpeakerLMConfig) -> Skeleton:
    """The model of a configuration without any memory for its weights."""
    import torch

    from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration

    with torch.device("meta"):
        model = SpeakerLMForConditionalGeneration(config)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}  # tied ones once
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    shapes |= {name: tuple(t.shape) for name, t in model.state_dict().items() if name not in known}  # buffers
    adapters = {}
    for name, module in model.named_modules():
        layer: Any = module
        if hasattr(layer, "lora_A") and "default" in layer.lora_A:
            a, b = (f"{name}.lora_{x}.default.weight" for x in "AB")
            weight = f"{name}.base_layer.weight"
            adapters[weight] = Adapter(a, b, layer.scaling["default"], bool(getattr(layer, "fan_in_fan_out", False)))
    return Skeleton(shapes, adapters)


def lazy_tensors(
    bones: Skeleton, llm: TensorFiles | Mapping[str, Tensor], own: TensorFiles, dtype: torch.dtype, merge: bool
) -> list[LazyTensor]:
    """All tensors of the exported model in its order.

    Args:
        llm: the LLM's base weights under its own names.
        own: everything else, under the model's names.
        dtype: of every tensor that is written.
        merge: add LoRA's product to the weights it belongs to, instead of writing it separately.

    Raises:
        ModelError: a tensor is in neither, or of another shape. Lists them.
    """
    out, problems = [], []
    for name, shape in bones.shapes.items():
        if merge and module_of(name) == "lora":
            continue
        base = name.removeprefix("llm.").replace(".base_layer.", ".")
        source, key = (llm, base) if module_of(name) == "llm" else (own, name)
        if key not in source:
            problems.append(f"missing {key}")
            continue
        found = source.shape(key) if isinstance(source, TensorFiles) else tuple(source[key].shape)
        if found != shape:
            problems.append(f"{key} is {found}, expected {shape}")
        adapter = bones.adapters.get(name) if merge else None
        written = name.replace(".base_layer.", ".") if merge else name
        out.append(LazyTensor(written, dtype, shape, partial(_read, source, key, own, adapter, dtype)))
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ModelError(f"the weights do not fit the model: {'; '.join(problems[:10])}{more}")
    return out


def _read(source: Any, key: str, own: TensorFiles, adapter: Adapter | None, dtype: torch.dtype) -> Tensor:
    tensor: Tensor = source[key]
    if adapter is None:
        return tensor.to(dtype)
    change = own[adapter.b].float() @ own[adapter.a].float() * adapter.scale
    return (tensor.float() + (change.T if adapter.transposed else change)).to(dtype)


def adapter_tensors(bones: Skeleton, own: TensorFiles) -> list[LazyTensor]:
    """LoRA's tensors in fp32 under the names that peft gives them in an adapter folder."""
    import torch

    names = [n for n in bones.shapes if module_of(n) == "lora"]
    tensors = [
        LazyTensor(n, torch.float32, bones.shapes[n], partial(_read, own, n, own, None, torch.float32)) for n in names
    ]
    return [replace(t, name=_peft_name(t.name)) for t in tensors]


def _peft_name(name: str) -> str:
    return f"base_model.model.{name.removeprefix('llm.')}".replace(".default.", ".")
