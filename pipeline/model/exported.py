"""An exported folder as a source of weights: the start of a run, the LLM, the encoder.

Its code files are never run: only ``config.json``, the tokenizer, the tensors and ``training.json`` are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.model.tensor_files import TensorFiles
from pipeline.stages import module_of
from shards.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

    from pipeline.prompts import PromptTokenizer

TRAINING = "training.json"  # what the run's own files say of its weights: stage, step, bases, sha256
MODEL_TYPE = "speakerlm"
# Names of the LLM's tensors in an exported folder → its own, as regular expressions of transformers' key_mapping.
LLM_KEYS = {r"^llm\.": "", r"\.base_layer\.": "."}


def is_exported(folder: Path) -> bool:
    """Return whether a folder is an exported SpeakerLM."""
    return model_type(folder) == MODEL_TYPE


def model_type(folder: Path) -> str | None:
    """Return what a folder's ``config.json`` says that it holds; None: it has none, or names no type.

    Raises:
        ModelError: it is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        return None
    found = _read(path).get("model_type")
    return str(found) if found else None


def exported_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of an exported folder.

    Raises:
        ConfigError: the folder has none, so it is neither a run nor an exported model.
        ModelError: it is damaged.
    """
    path = folder / "config.json"
    if not path.exists():
        raise ConfigError(f"{folder} is neither a finished run (config.yaml, done) nor an exported model (config.json)")
    found = _read(path)
    if not found.get("model_type"):
        raise ModelError(f"{path} is damaged (it names no model_type): export the run again, or download it again")
    return found


def read_training(folder: Path) -> dict[str, Any] | None:
    """Read what a run said of the weights that were exported; None: an export of before this file existed.

    Raises:
        ModelError: it is damaged.
    """
    path = folder / TRAINING
    if not path.is_file():
        return None
    found = _read(path)
    if not {"stage", "merged", "bases", "own_sha256"} <= found.keys():
        raise ModelError(f"{path} is damaged (stage, merged, bases or own_sha256 are missing): export the run again")
    return found


def write_training(folder: Path, done: Mapping[str, Any], merged: bool) -> None:
    """Write ``training.json`` of a folder whose weights are written, from its run's ``done`` marker."""
    bases = {name: value for name, value in done["bases"].items() if name in ("llm", "tokenizer")}
    stated = {"stage": done["stage"], "step": done.get("step"), "merged": merged, "bases": bases}
    stated["own_sha256"] = own_digest(own_tensors(folder))
    (folder / TRAINING).write_text(json.dumps(stated, indent=1), encoding="utf-8")


def own_tensors(folder: Path) -> TensorFiles:
    """Everything but the LLM's base weights, under the model's names.

    Raises:
        ModelError: a file is missing or damaged.
    """
    return _files(folder).renamed(lambda name: None if module_of(name) == "llm" else name)


def llm_tensors(folder: Path) -> TensorFiles:
    """The LLM's base weights under its own names; of a merged export, LoRA is in them.

    Raises:
        ModelError: a file is missing or damaged.
    """
    return _files(folder).renamed(
        lambda name: name.removeprefix("llm.").replace(".base_layer.", ".") if module_of(name) == "llm" else None
    )


def own_digest(tensors: TensorFiles) -> str:
    """Return the sha256 of tensors' names, dtypes and bytes, in the order of their names, however files are cut."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def llm_config(folder: Path) -> PreTrainedConfig:
    """Return the configuration of an LLM's folder, or of the LLM in an exported one.

    Raises:
        ModelError: transformers does not know its type.
    """
    from transformers import AutoConfig

    try:
        if not is_exported(folder):
            return AutoConfig.from_pretrained(str(folder))
        known = dict(exported_config(folder)["llm"])
        return AutoConfig.for_model(known.pop("model_type"), **known)
    except (OSError, ValueError, KeyError) as e:
        raise ModelError(f"{folder / 'config.json'}: not the configuration of a causal LM: {e}") from e


def tokenizer_of(folder: Path) -> PromptTokenizer:
    """Load the tokenizer of an LLM's folder, or of an exported one.

    Raises:
        ModelError: the folder holds no usable tokenizer.
    """
    from pipeline.model.auto import register_auto_classes
    from pipeline.prompts import PromptTokenizer

    if is_exported(folder):
        register_auto_classes()  # or transformers asks whether the folder's own code may run
    return PromptTokenizer.from_folder(folder)


@dataclass(frozen=True)
class ExportedEncoder:
    """The encoder of an exported folder: an :class:`EncoderCheckpoint` of any type of encoder."""

    folder: Path
    class_name: str
    encoder_conf: dict[str, Any]
    frontend_conf: dict[str, Any]
    shift: list[float]
    scale: list[float]

    @classmethod
    def of(cls, folder: Path) -> ExportedEncoder:
        """Read its configuration.

        Raises:
            ModelError: ``config.json`` is damaged or describes no encoder.
        """
        config = exported_config(folder)
        try:
            names = ("encoder_class", "encoder_conf", "frontend_conf", "feature_shift", "feature_scale")
            return cls(folder, *(config[name] for name in names))
        except KeyError as e:
            raise ModelError(f"{folder / 'config.json'} describes no encoder ({e} is missing)") from e

    def encoder_state(self) -> dict[str, Tensor]:
        """Read the weights, under the names of the model's encoder."""
        own = own_tensors(self.folder)
        names = {name: name.removeprefix("encoder.") for name in own if module_of(name) == "encoder"}
        return own.renamed(names.get).state()

    def load_into(self, encoder: Any) -> None:
        """Copy the weights; every name must fit.

        Raises:
            ModelError: names are missing or unexpected, or shapes differ. Lists them.
        """
        from pipeline.model.sensevoice_encoder import check_state

        found = self.encoder_state()
        check_state(found, encoder.state_dict(), str(self.folder), self.class_name)
        encoder.load_state_dict(found)


def _files(folder: Path) -> TensorFiles:
    try:
        return TensorFiles.of_folder(folder)
    except FileNotFoundError as e:
        raise ModelError(
            f"{folder} holds no weights (*.safetensors): export the run again, or download it again"
        ) from e


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise ModelError(f"{path}: no such file") from e
    except ValueError as e:
        raise ModelError(f"{path} is damaged ({e}): export the run again, or download it again") from e
    if not isinstance(found, dict):
        raise ModelError(f"{path} is damaged (it holds no mapping): export the run again, or download it again")
    return found
