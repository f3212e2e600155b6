"""A finished run as a Hugging Face folder: weights, code, configuration, tokenizer, adapter, model card."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint.final_weights import read_done
from pipeline.export.code import write_code
from pipeline.export.model_card import model_card
from pipeline.export.safetensors_file import LazyTensor, write_sharded, write_tensors
from pipeline.export.weights import Skeleton, TensorFiles, adapter_tensors, lazy_tensors, open_tensors, skeleton
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import ModelConfig, Recipe
from pipeline.stages import STAGES, check_speech, module_of
from shards.errors import CheckpointError, ConfigError, ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.model.configuration_speakerlm import SpeakerLMConfig


logger = logging.getLogger(__name__)


def export(
    run: Path, out: Path, merge: bool = False, dtype: str = "auto", largest: int = 4 * 10**9, scores: Path | None = None
) -> Path:
    """Write the folder; it appears whole or not at all.

    Args:
        run: a finished run: config.yaml, weights/, done.
        out: a folder that does not exist yet.
        merge: add LoRA to the LLM's weights; peft is not needed to load the result then.
        dtype: of all weights: float32, bfloat16, float16, or auto for that of the LLM's own.
        largest: bytes of a weight file.
        scores: scores.json for the model card; None takes the run's own, where it has one.

    Raises:
        ConfigError: ``out`` exists, or cannot be made.
        CheckpointError: the run has not finished, or its weights have changed since.
        ModelError: the weights do not fit, or the LLM is another one.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already: name a folder that does not")
    recipe = load_recipe(run / "config.yaml")
    check_speech(recipe.stage, str(run))
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as e:
        raise ConfigError(f"{out}: {e.strerror or e}; name a folder that can be written") from e
    try:
        card = model_card(run, recipe, out.name, merge, scores)
        _write(partial, run, recipe, merge, dtype, largest)
        (partial / "README.md").write_text(card, encoding="utf-8")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _write(folder: Path, run: Path, recipe: Recipe, merge: bool, dtype: str, largest: int) -> None:
    from transformers import AutoConfig

    from pipeline.model.build import speakerlm_config
    from shards.weights.hubs import resolve_checkpoint

    cfg = recipe.model
    llm_folder = resolve_checkpoint(cfg.llm.checkpoint, cfg.llm.hub)
    llm_config = AutoConfig.from_pretrained(str(llm_folder))
    config = speakerlm_config(cfg, llm_config.to_dict())
    config.activation_checkpointing = False
    config.registration = STAGES[recipe.stage].registration
    bones = skeleton(config)
    own = _own_tensors(run, bones, llm_folder)
    llm = _llm_tensors(llm_folder, bones)
    chosen = _dtype(dtype, llm_config)
    _write_all(write_sharded(folder, tensors := lazy_tensors(bones, llm, own, chosen, merge), largest), tensors)
    if not merge:
        _write_adapter(folder / "adapter", adapter_tensors(bones, own), cfg)
    else:
        config.lora = {}
    write_code(folder)
    _write_configs(folder, config, llm_folder, chosen)


def _own_tensors(run: Path, bones: Skeleton, llm_folder: Path) -> TensorFiles:
    """Open the run's own weights after checking that they are complete and belong to this LLM."""
    from pipeline.model.own_weights import WEIGHTS, base_hashes, check_own_weights

    path = run / WEIGHTS
    expected = read_done(run)["weights_sha256"]
    with open_tensors(path) as file:
        names = [n for n in bones.shapes if module_of(n) != "llm"]
        check_own_weights(path, file, names, base_hashes(llm_folder))
    with path.open("rb") as f:
        if hashlib.file_digest(f, "sha256").hexdigest() != expected:
            raise CheckpointError(f"{path} is not the file that its run wrote: it was changed or damaged")
    return TensorFiles.of_file(path)


def _llm_tensors(folder: Path, bones: Skeleton) -> TensorFiles | Mapping[str, Tensor]:
    """The LLM's files; where they name tensors otherwise than the model, the LLM as transformers loads it."""
    wanted = [n.removeprefix("llm.").replace(".base_layer.", ".") for n in bones.shapes if module_of(n) == "llm"]
    try:
        files = TensorFiles.of_folder(folder)
    except FileNotFoundError:
        files = TensorFiles({})
    if all(name in files for name in wanted):
        return files
    from pipeline.model.build import load_llm

    logger.warning(f"{folder} does not name its tensors as the model does: loading it whole")
    import torch

    return load_llm(folder, ds_config=None, dtype=torch.float32).state_dict()


def _dtype(name: str, llm_config: Any) -> torch.dtype:
    import torch

    chosen = getattr(llm_config, "dtype", None) or "float32" if name == "auto" else name
    chosen = getattr(torch, chosen, None) if isinstance(chosen, str) else chosen
    if not isinstance(chosen, torch.dtype):
        raise ConfigError(f"dtype {name} is not float32, bfloat16, float16 or auto")
    return chosen


def _write_all(written: Iterator[LazyTensor], tensors: Sequence[LazyTensor]) -> None:
    """Run a writer to its end under a progress bar."""
    from tqdm import tqdm

    total = sum(t.bytes for t in tensors)
    with tqdm(total=total, unit="B", unit_scale=True, desc="weights", disable=not sys.stderr.isatty()) as bar:
        for t in written:
            bar.update(t.bytes)


def _write_adapter(folder: Path, tensors: Sequence[LazyTensor], cfg: ModelConfig) -> None:
    """LoRA as PEFT keeps it, for the LLM alone."""
    from dataclasses import asdict

    from pipeline.model.lora import lora_config

    config = lora_config(asdict(cfg.lora))
    config.base_model_name_or_path, config.inference_mode = cfg.llm.checkpoint, True
    folder.mkdir()
    config.save_pretrained(str(folder))
    for _ in write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"}):
        pass


def _write_configs(folder: Path, config: SpeakerLMConfig, llm_folder: Path, dtype: torch.dtype) -> None:
    """config.json, generation_config.json, processor_config.json and the tokenizer's files."""
    from transformers import GenerationConfig

    from pipeline.model.auto import AUTO_MAP, PROCESSOR
    from pipeline.model.processing_speakerlm import SpeakerLMProcessor
    from pipeline.prompts import PromptTokenizer

    tokenizer = PromptTokenizer.from_folder(llm_folder)
    processor = SpeakerLMProcessor(tokenizer, config.projector["stride"], config.speaker_dim, config.extractor)
    processor.auto_map = {"AutoProcessor": PROCESSOR}
    processor.save_pretrained(str(folder))
    config.architectures = ["SpeakerLMForConditionalGeneration"]
    config.auto_map = {name: where for name, where in AUTO_MAP.items() if where != PROCESSOR}
    config.dtype = dtype
    config.save_pretrained(str(folder))
    end = GenerationConfig(do_sample=False, eos_token_id=tokenizer.eos, pad_token_id=tokenizer.pad)
    end.save_pretrained(str(folder))
    if not json.loads((folder / "config.json").read_text(encoding="utf-8")).get("auto_map"):
        raise ModelError(f"{folder / 'config.json'}: transformers dropped auto_map, so the folder cannot be loaded")
