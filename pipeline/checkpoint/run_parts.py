"""The model of a finished run as tensors that are read one at a time, with LoRA separate or merged."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint.final_weights import read_done
from pipeline.checkpoint.model_tensors import Skeleton, lazy_tensors, skeleton
from pipeline.model.exported import is_exported, llm_config, llm_tensors
from pipeline.model.tensor_files import TensorFiles, open_tensors
from pipeline.stages import STAGES, module_of
from shards.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.checkpoint.safetensors_file import LazyTensor
    from pipeline.model.configuration_speakerlm import SpeakerLMConfig
    from pipeline.recipe.schema import Recipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunParts:
    """Configuration and files of a finished run's model."""

    config: SpeakerLMConfig
    bones: Skeleton
    llm_folder: Path
    llm_config: Any
    llm: TensorFiles | Mapping[str, Tensor]  # the LLM's base weights under its own names
    own: TensorFiles  # all others

    def tensors(self, dtype: torch.dtype, merge: bool) -> list[LazyTensor]:
        """Return all tensors in the model's order, see :func:`lazy_tensors`."""
        return lazy_tensors(self.bones, self.llm, self.own, dtype, merge)


def parts_of(run: Path, recipe: Recipe) -> RunParts:
    """Open a finished run.

    Raises:
        CheckpointError: its weights have changed since it finished.
        ModelError: the weights do not fit, or the LLM is another one.
    """
    from pipeline.model.build import speakerlm_config
    from shards.weights.hubs import resolve_checkpoint

    cfg = recipe.model
    llm_folder = resolve_checkpoint(cfg.llm.checkpoint, cfg.llm.hub)
    of_llm = llm_config(llm_folder)
    config = speakerlm_config(cfg, of_llm.to_dict())
    config.activation_checkpointing = False
    config.registration = STAGES[recipe.stage].registration
    if recipe.data.context.share:  # config.json of others has no such key
        config.context = True
    if STAGES[recipe.stage].tasks:  # the same
        config.dialogue = {"numbered": recipe.data.dialogue.numbered}
    bones = skeleton(config)
    own = _own_files(run, bones, llm_folder)
    return RunParts(config, bones, llm_folder, of_llm, _llm_files(llm_folder, bones), own)


def _own_files(run: Path, bones: Skeleton, llm_folder: Path) -> TensorFiles:
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


def _llm_files(folder: Path, bones: Skeleton) -> TensorFiles | Mapping[str, Tensor]:
    """The LLM's files; where they name tensors otherwise than the model, the LLM as transformers loads it."""
    wanted = [n.removeprefix("llm.").replace(".base_layer.", ".") for n in bones.shapes if module_of(n) == "llm"]
    try:
        files = llm_tensors(folder) if is_exported(folder) else TensorFiles.of_folder(folder)
    except FileNotFoundError:
        files = TensorFiles({})
    if all(name in files for name in wanted):
        return files
    from pipeline.model.build import load_llm

    logger.warning(f"{folder} does not name its tensors as the model does: loading it whole")
    import torch

    return load_llm(folder, ds_config=None, dtype=torch.float32).state_dict()
