"""A SpeakerLM in two halves, for an engine whose LLM is not ours: the part that makes LLM inputs, and the LLM's folder.

Encoder, projectors and the table of token embeddings stay ours and become a model without LLM layers. The LLM, with
LoRA merged into its weights, is written as a Hugging Face folder of its own architecture (a plain Qwen2 folder for
Qwen2.5), which every engine for that architecture loads. Both are made of tensors that are read one at a time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint.final_weights import read_done
from pipeline.checkpoint.run_parts import parts_of
from pipeline.checkpoint.safetensors_file import LazyTensor, write_sharded
from pipeline.model.exported import exported_config, tokenizer_of
from pipeline.model.own_weights import fingerprint_weights
from pipeline.model.tensor_files import TensorFiles
from pipeline.recipe.load import load_recipe
from shards.errors import ConfigError, ModelError
from shards.weights.fetch import cache_folder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.model.configuration_speakerlm import SpeakerLMConfig
    from pipeline.prompts import PromptTokenizer

logger = logging.getLogger(__name__)
FILE_BYTES = 4 * 10**9


@dataclass(frozen=True)
class MergedModel:
    """A model whose LoRA is in the weights of its LLM."""

    config: SpeakerLMConfig
    tokenizer: PromptTokenizer
    tensors: Sequence[LazyTensor]
    identity: str  # hash of weights and dtype


def open_merged(folder: Path, dtype: torch.dtype) -> MergedModel:
    """Open a finished run, or a folder of ``speakerlm-export --merge``.

    Raises:
        ModelError: LoRA is not merged, or files are damaged or missing.
        ConfigError, CheckpointError: neither a finished run nor an exported model.
    """
    if (folder / "config.yaml").exists():
        weights = str(read_done(folder)["weights_sha256"])
        parts = parts_of(folder, load_recipe(folder / "config.yaml"))
        base = fingerprint_weights(parts.llm_folder)
        tokenizer = tokenizer_of(parts.llm_folder)
        config, tensors = parts.config, parts.tensors(dtype, merge=True)
        config.lora = {}
    else:
        config = _exported_config(folder)
        weights, base = fingerprint_weights(folder), ""
        tokenizer = tokenizer_of(folder)
        tensors = _exported_tensors(folder, dtype)
    digest = hashlib.sha256(f"{weights} {base} {dtype}".encode()).hexdigest()
    return MergedModel(config, tokenizer, tensors, digest)


def _exported_config(folder: Path) -> SpeakerLMConfig:
    from pipeline.model.configuration_speakerlm import SpeakerLMConfig

    exported_config(folder)
    try:
        config = SpeakerLMConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError) as e:
        raise ModelError(f"{folder / 'config.json'} is damaged ({e}): export the run again") from e
    if not config.llm:
        raise ModelError(f"{folder} does not hold a SpeakerLM: use a folder of speakerlm-export")
    if config.lora:
        raise ModelError(f"{folder} has LoRA beside the LLM, and this engine needs one LLM: export it with --merge")
    return config


def _exported_tensors(folder: Path, dtype: torch.dtype) -> list[LazyTensor]:
    try:
        files = TensorFiles.of_folder(folder)
    except FileNotFoundError as e:
        raise ModelError(f"{e}: export the run again") from e
    return [LazyTensor(name, dtype, files.shape(name), partial(_read, files, name, dtype)) for name in files]


def _read(files: TensorFiles, name: str, dtype: torch.dtype) -> Tensor:
    return files[name].to(dtype)


def input_model(model: MergedModel, device: str, dtype: torch.dtype) -> Any:
    """Build the part that makes LLM inputs: a SpeakerLM in eval mode whose LLM has only its embeddings.

    Raises:
        ModelError: tensors are missing or do not fit.
    """
    import torch
    from torch import nn

    from pipeline.model.configuration_speakerlm import SpeakerLMConfig
    from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration

    settings = model.config.to_dict()
    settings["llm"] = {**settings["llm"], "num_hidden_layers": 0, "layer_types": []}
    network = SpeakerLMForConditionalGeneration(SpeakerLMConfig.from_dict(settings))
    network.llm.set_output_embeddings(nn.Identity())
    stored = {t.name: t for t in model.tensors}
    problems = []
    with torch.no_grad():
        for name, place in network.state_dict(keep_vars=True).items():
            if name not in stored:
                problems.append(f"missing {name}")
            elif stored[name].shape != tuple(place.shape):
                problems.append(f"{name} is {stored[name].shape}, expected {tuple(place.shape)}")
            else:
                place.copy_(stored[name].read())
    if problems:
        raise ModelError(f"the weights do not fit the model: {'; '.join(problems[:10])}: export the run again")
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    return network.to(device).eval()  # type: ignore[arg-type]


def llm_folder(model: MergedModel, cache: Path | None = None) -> Path:
    """Return the folder of the merged LLM; it is written at the first call, whole or not at all.

    Args:
        cache: where it is kept, by a hash of the weights; None: that of packages' weights.

    Raises:
        ConfigError: the cache cannot be written.
    """
    folder = (cache or cache_folder()) / "merged-llm" / model.identity[:32]
    if folder.exists():
        return folder
    partial_folder = folder.with_name(f".{folder.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        partial_folder.mkdir(parents=True)
        logger.info("writing the merged LLM to %s", folder)
        _write_llm(model, partial_folder)
        try:
            partial_folder.rename(folder)
        except OSError:
            if not folder.exists():  # another process was faster
                raise
    except OSError as e:
        raise ConfigError(f"{folder}: {e.strerror or e}; name a cache that can be written (SPEAKERLM_CACHE)") from e
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return folder


def _write_llm(model: MergedModel, folder: Path) -> None:
    from transformers import AutoConfig

    own = [LazyTensor(t.name.removeprefix("llm."), t.dtype, t.shape, t.read) for t in model.tensors if _of_llm(t.name)]
    for _ in write_sharded(folder, own, FILE_BYTES):
        pass
    settings = dict(model.config.llm)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    config.architectures = config.architectures or [_architecture(config.model_type)]
    config.dtype = own[0].dtype
    config.save_pretrained(str(folder))
    model.tokenizer.tokenizer.save_pretrained(str(folder))


def _of_llm(name: str) -> bool:
    return name.startswith("llm.")


def _architecture(model_type: str) -> str:
    """Return the name of transformers' class, by which engines know an architecture."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])
