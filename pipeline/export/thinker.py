"""A finished run on a thinker in the layout of its base: the published files, with LoRA in the weights it changes.

transformers' own classes load the folder, and what else reads the base. Everything that the run did not train, the
talker too, is the base's, tensor by tensor. LoRA alone is in ``adapter/``, as PEFT keeps it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint.final_weights import read_done
from pipeline.checkpoint.safetensors_file import LazyTensor, write_sharded, write_tensors
from pipeline.export.card_sources import base_models, checkpoint_of
from pipeline.model.tensor_files import INDEX, TensorFiles, open_tensors
from pipeline.recipe.schema import Recipe
from pipeline.stages import Base
from shards.errors import CheckpointError, ConfigError, ModelError
from shards.weights.hubs import resolve_checkpoint

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_LORA = re.compile(r"llm\.model\.language_model\.(?P<layer>.+)\.lora_(?P<which>[AB])\.default\.weight")
_NOT_COPIED = (".safetensors", ".bin", ".pth", ".md")  # weights are written, and the card is the run's own

CARD = """\
---
library_name: transformers
tags: [speaker-reasoner, speaker-diarization, speech-recognition]
{bases}license: other
---

# {name}

Hears a conversation several times and writes who said what, with gender and times
([Speaker-Reasoner](https://arxiv.org/abs/2604.03074)). It is {base}, whose thinker was trained in dialogues; the files
are in the base's own layout, with LoRA of rank {r} (alpha {alpha}) in the weights. `adapter/` holds the LoRA alone.

```python
from transformers import {cls}

model = {cls}.from_pretrained("{name}")
```

A user's turn has audio before text, and there is no system line. The first turn asks for a summary and the bounds of a
first slice; each later turn shows a slice. `speakerlm-transcribe --reasoner` of speakerlm-pretrain holds these
dialogues with the run. Observations are {numbered}.

Trained in stage {stage} for {steps} steps. The weights are made from others' and stay under their terms. A sentence may
be given to the wrong speaker: check before anything depends on who said it.
"""


@dataclass(frozen=True)
class _Adapter:
    """LoRA of one layer."""

    a: Tensor
    b: Tensor
    scale: float

    def added(self, weight: Tensor) -> Tensor:
        """The layer's weight with LoRA in it, in fp32."""
        return weight.float() + self.b.float() @ self.a.float() * self.scale


def write_thinker(folder: Path, run: Path, recipe: Recipe, name: str, dtype: str, largest: int) -> None:
    """Write weights, configuration, tokenizer, adapter and card into an empty folder.

    Args:
        name: title of the exported model.
        dtype: of the weights; auto: each tensor's own.
        largest: bytes of a weight file.

    Raises:
        CheckpointError, ModelError: as of :func:`pipeline.export.folder.export`.
    """
    base = resolve_checkpoint(recipe.model.llm.checkpoint, recipe.model.llm.hub)
    adapters = _adapters(run, base, recipe)
    for _ in write_sharded(folder, _tensors(base, adapters, dtype), largest):
        pass
    for path in base.iterdir():
        if path.is_file() and path.suffix not in _NOT_COPIED and path.name != INDEX:
            shutil.copyfile(path, folder / path.name)
    _write_adapter(folder / "adapter", adapters, recipe)
    (folder / "README.md").write_text(_card(run, recipe, name), encoding="utf-8")


def _adapters(run: Path, base: Path, recipe: Recipe) -> dict[str, _Adapter]:
    """LoRA by name of the decoder's layer, after a check of file and base."""
    from pipeline.model.own_weights import WEIGHTS, base_hashes, check_own_weights
    from pipeline.model.thinker_tokens import ThinkerTokenizer

    path, lora = run / WEIGHTS, recipe.model.lora
    with open_tensors(path) as file:
        names = list(file.keys())
        tokenizer = ThinkerTokenizer.of_base(base, Base(recipe.model.base))
        check_own_weights(path, file, names, base_hashes(base, tokenizer.hash))
        found = {name: file.get_tensor(name) for name in names}
    with path.open("rb") as f:
        if hashlib.file_digest(f, "sha256").hexdigest() != read_done(run)["weights_sha256"]:
            raise CheckpointError(f"{path} is not the file that its run wrote: it was changed or damaged")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in found.items():
        match = _LORA.fullmatch(name)
        if not match:
            raise ModelError(f"{path}: {name} is no LoRA of a thinker's decoder")
        parts.setdefault(match["layer"], {})[match["which"]] = tensor
    return {layer: _Adapter(pair["A"], pair["B"], lora.alpha / lora.r) for layer, pair in parts.items()}


def _tensors(base: Path, adapters: Mapping[str, _Adapter], dtype: str) -> list[LazyTensor]:
    import torch

    try:
        files = TensorFiles.of_folder(base)
    except FileNotFoundError as e:
        raise ModelError(f"{e}: an export reads the base's weights from *.safetensors") from e
    prefix = "thinker." if any(name.startswith("thinker.") for name in files) else ""
    changed = {f"{prefix}model.{layer}.weight": adapter for layer, adapter in adapters.items()}
    if missing := sorted(name for name in changed if name not in files):
        raise ModelError(f"{base} lacks {missing[0]}, which LoRA changes: it is another model than the run's base")
    out = []
    for name in files:
        own = files.dtype(name)
        wanted: torch.dtype = own if dtype == "auto" or not own.is_floating_point else getattr(torch, dtype)
        out.append(LazyTensor(name, wanted, files.shape(name), partial(_read, files, name, changed.get(name), wanted)))
    return out


def _read(files: TensorFiles, name: str, adapter: _Adapter | None, dtype: torch.dtype) -> Tensor:
    tensor = files[name]
    return (tensor if adapter is None else adapter.added(tensor)).to(dtype)


def _write_adapter(folder: Path, adapters: Mapping[str, _Adapter], recipe: Recipe) -> None:
    """LoRA for transformers' thinker class, as PEFT keeps it; layers by their full names, since encoders have the same
    last ones."""
    from pipeline.model.lora import lora_config

    layers = {f"model.language_model.{layer}": adapter for layer, adapter in adapters.items()}
    config = lora_config(asdict(recipe.model.lora) | {"targets": sorted(layers)})
    config.base_model_name_or_path, config.inference_mode = recipe.model.llm.checkpoint, True
    folder.mkdir()
    config.save_pretrained(str(folder))
    tensors = [
        LazyTensor(f"base_model.model.{layer}.lora_{which}.weight", t.dtype, tuple(t.shape), partial(_same, t))
        for layer, adapter in layers.items()
        for which, t in (("A", adapter.a), ("B", adapter.b))
    ]
    for _ in write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"}):
        pass


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _card(run: Path, recipe: Recipe, name: str) -> str:
    from pipeline.model.thinker import thinker_class

    done: dict[str, Any] = read_done(run)
    ids = base_models(recipe, run)
    return CARD.format(
        name=name,
        bases="base_model:\n" + "".join(f"- {i}\n" for i in ids) if ids else "",
        base=checkpoint_of(recipe, run, "llm"),
        cls=thinker_class(Base(recipe.model.base)).__name__,
        r=recipe.model.lora.r,
        alpha=recipe.model.lora.alpha,
        numbered="numbered" if recipe.data.dialogue.numbered else "not numbered",
        stage=done["stage"],
        steps=done.get("step", "?"),
    )


def check_thinker(recipe: Recipe, merge: bool) -> None:
    """Raise ConfigError unless a run on a thinker is exported merged: its classes have no place for LoRA."""
    if not merge:
        raise ConfigError(
            f"a run on {recipe.model.base} is exported with --merge, in the layout of its base; adapter/ in it has the "
            "LoRA alone"
        )
