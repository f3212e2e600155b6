"""The LLM: any causal LM of transformers that can be packed, whole or in ZeRO-3's partitions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.model.exported import LLM_KEYS, is_exported, llm_config
from pipeline.model.packed_attention import register
from shards.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = {"full_attention", "sliding_attention"}  # kinds of layers that see nothing but their own sample


def load_llm(folder: Path, *, ds_config: Mapping[str, Any] | None, dtype: torch.dtype) -> PreTrainedModel:
    """A causal LM with every weight from its files, attending as packing.py does.

    Of an exported SpeakerLM it is the LLM in it: with LoRA where that was merged, else without.

    Raises:
        ModelError: a file is missing, weights do not fit the architecture, or it is one that samples cannot be packed
            for. Lists the keys.
    """
    from transformers import AutoModelForCausalLM

    inside = {"config": llm_config(folder), "key_mapping": LLM_KEYS} if is_exported(folder) else {}
    with _without_warnings(bool(inside)):  # of encoder, projectors and LoRA, which an LLM has no use for
        llm = load_from_files(AutoModelForCausalLM, folder, ds_config, dtype, "a causal LM", **inside)
    check_packable(llm)
    llm.requires_grad_(False)
    return llm


def load_from_files(
    cls: Any, folder: Path, ds_config: Mapping[str, Any] | None, dtype: torch.dtype, kind: str, **more: Any
) -> Any:
    """A model of a transformers class with every weight from its files, attending as packing.py does.

    Args:
        ds_config: where it says ZeRO-3, each rank keeps its partition.
        kind: of model, for errors.
        more: for ``from_pretrained``.

    Raises:
        ModelError: a file is missing, or weights do not fit the architecture. Lists the keys.
    """
    bars_on_terminals_only()
    zero3 = is_zero3(ds_config)
    if zero3:
        from transformers.integrations import HfDeepSpeedConfig

        alive = HfDeepSpeedConfig(dict(ds_config or {}))  # transformers looks for a living one
    try:
        model, info = cls.from_pretrained(
            str(folder), dtype=dtype, attn_implementation=register(), output_loading_info=True, **more
        )
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        raise ModelError(f"{folder}: not {kind} that transformers can load: {e}") from e
    if zero3:
        del alive
    problems = [f"{what} {key}" for what in ("missing_keys", "mismatched_keys") for key in sorted(map(str, info[what]))]
    if problems:
        raise ModelError(f"{folder}: weights do not fit {type(model).__name__}: {'; '.join(problems[:20])}")
    return model


@contextmanager
def _without_warnings(wanted: bool) -> Iterator[None]:
    from transformers.utils import logging

    before = logging.get_verbosity()
    try:
        if wanted:
            logging.set_verbosity_error()
        yield
    finally:
        logging.set_verbosity(before)


def bars_on_terminals_only() -> None:
    """Keep transformers' progress bars of loading and writing weights out of logs."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def is_zero3(ds_config: Mapping[str, Any] | None) -> bool:
    """Whether a DeepSpeed configuration partitions parameters."""
    return bool(ds_config) and (ds_config or {}).get("zero_optimization", {}).get("stage") == 3


def check_packable(llm: PreTrainedModel) -> None:
    """Refuse architectures in which samples packed into one row would see one another.

    Raises:
        ModelError: attention that does not go through transformers' interface, or layers that carry a state along.
    """
    what = type(llm).__name__
    advice = "use a causal LM like Qwen2, Llama, Mistral or GPT-NeoX"
    if not llm._supports_attention_backend:
        raise ModelError(f"{what} computes attention in its own way, so samples cannot be packed for it: {advice}")
    layers = set(getattr(llm.config, "layer_types", None) or ())
    if other := sorted(layers - ATTENTION):
        raise ModelError(f"{what} has layers of {', '.join(other)}, which would mix packed samples: {advice}")
