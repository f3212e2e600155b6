"""The weights that a run starts from: a finished run, an exported folder, one on the Hugging Face Hub, or a LoRA.

======================  ==================================================  =======================================
``init_from``           known by                                            what is taken
======================  ==================================================  =======================================
a finished run          ``done``, ``weights/``                              all own weights
an exported folder      ``config.json`` of type ``speakerlm``               all own weights
the same, merged        ``merged`` in its ``training.json``                 encoder and projectors; LoRA starts at zero
a PEFT adapter          ``adapter_config.json``                             LoRA alone
======================  ==================================================  =======================================

"Own" is everything but the LLM's base. What comes from an exported folder or an adapter is written once as
``OUTPUT/start/weights/model.safetensors``, in fp32 and with the names of a run's own weights.
"""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.checkpoint import final_weights as finished
from pipeline.checkpoint.format import writing
from pipeline.ranks.collectives import all_gather_or_raise, broadcast_or_raise
from pipeline.ranks.launch import Ranks
from pipeline.recipe.schema import Recipe
from pipeline.stages import module_of, stage_of
from shards.errors import CheckpointError, ModelError
from shards.weights.hubs import hub_name, remember, resolve_checkpoint

logger = logging.getLogger(__name__)
RUN, EXPORTED, ADAPTER = "run", "exported", "adapter"
ADAPTER_CONFIG = "adapter_config.json"
HUB = "huggingface"


@dataclass(frozen=True)
class Start:
    """The source of a run's weights."""

    kind: str  # RUN, EXPORTED or ADAPTER
    folder: Path
    sha256: str | None = None  # of a run's file of weights, or of an exported folder's own tensors; None: not checked


def find_start(recipe: Recipe, ranks: Ranks) -> Start | None:
    """Find and check what ``init_from`` names; None if the run starts from public checkpoints. Collective.

    An id on the Hub is downloaded by one process per node, into the Hub's own cache; the others wait.

    Raises:
        CheckpointError: a run that has not finished, or weights of a stage that this one does not continue.
        ModelError: there is no such folder or id, it is damaged, or the recipe's model is another one. Lists what
            differs.
    """
    if recipe.init_from is None:
        return None
    # The first rank wrote the marker of the stage before; on a network filesystem others may not see it yet.
    name = broadcast_or_raise(ranks, lambda: hub_name(recipe.init_from or ""), failure=CheckpointError)
    folder = Path(recipe.init_from)
    if name is not None:
        folder = _downloaded(name, ranks)
        remember(recipe.init_from, folder)  # model.llm.checkpoint may be the same id
    start: Start = broadcast_or_raise(ranks, lambda: inspect(recipe, folder), failure=CheckpointError)
    return replace(start, folder=folder)


def _downloaded(name: str, ranks: Ranks) -> Path:
    host = socket.gethostname()
    work = (lambda: (host, str(resolve_checkpoint(name, HUB)))) if ranks.local_rank == 0 else (lambda: None)
    found = dict(pair for pair in all_gather_or_raise(ranks, work, failure=ModelError) if pair)
    return Path(found[host])


def inspect(recipe: Recipe, folder: Path) -> Start:
    """Tell the kinds of starting points apart, and check one against the recipe. Reads no weights.

    Raises:
        CheckpointError, ModelError: as of :func:`find_start`.
    """
    from pipeline.model.exported import MODEL_TYPE, model_type

    kind = model_type(folder)
    if kind == MODEL_TYPE:
        return _exported(recipe, folder)
    if (folder / ADAPTER_CONFIG).is_file():
        return _adapter(recipe, folder)
    if kind is not None:
        raise ModelError(
            f"{folder} holds a model of type {kind!r}, not SpeakerLM: set init_from to a folder of "
            "speakerlm-export, or this one as model.llm.checkpoint"
        )
    return _run(recipe, folder)


def _run(recipe: Recipe, folder: Path) -> Start:
    if recipe.init_from_any:
        return Start(RUN, folder)
    if folder.is_dir() and not any((folder / n).exists() for n in (finished.DONE, "weights", "config.yaml")):
        raise CheckpointError(
            f"{folder} is neither a finished run (done, weights/), nor an exported folder (config.json), nor a PEFT "
            f"adapter ({ADAPTER_CONFIG}): set init_from to one"
        )
    done = finished.read_done(folder)
    _check_stage(recipe, folder, done["stage"])
    return Start(RUN, folder, done["weights_sha256"])


def _check_stage(recipe: Recipe, folder: Path, stage: int) -> None:
    wanted = stage_of(recipe.stage, recipe.model.base).starts_from
    if stage not in (wanted, recipe.stage):
        raise CheckpointError(
            f"{folder} is stage {stage}, stage {recipe.stage} continues stage {wanted}; "
            "--init-from takes any run's weights"
        )


def _exported(recipe: Recipe, folder: Path) -> Start:
    from pipeline.model.exported import exported_config, own_tensors, read_training
    from pipeline.train.exported_fits import check_model

    own_tensors(folder).check()
    stated = read_training(folder)
    if stated is not None and not recipe.init_from_any:
        _check_stage(recipe, folder, stated["stage"])
    if stated is None and not recipe.init_from_any:
        raise CheckpointError(
            f"{folder} does not say of which stage it is (training.json is missing: an older version exported it): "
            "export the run again, or take its weights with --init-from"
        )
    check_model(recipe, folder, exported_config(folder), stated)
    return Start(EXPORTED, folder, stated["own_sha256"] if stated else None)


def _adapter(recipe: Recipe, folder: Path) -> Start:
    from pipeline.model.exported import is_exported
    from pipeline.train.exported_fits import check_adapter

    before = stage_of(recipe.stage, recipe.model.base).starts_from
    if before is not None and not recipe.init_from_any:
        whole = f"name {folder.parent} itself" if is_exported(folder.parent) else "name a run or an exported folder"
        raise CheckpointError(
            f"{folder} holds LoRA alone, and stage {recipe.stage} continues stage {before}, with its encoder and "
            f"projectors: {whole}; --init-from takes LoRA from there, and the rest from the public checkpoints"
        )
    check_adapter(recipe, folder)
    return Start(ADAPTER, folder)


# ------------------------------------------------------------------------------------------------------------ weights


def take_weights(model: Any, recipe: Recipe, start: Start, ranks: Ranks) -> tuple[Path, str]:
    """Load the weights into a model whose own parameters are whole; return the file they are in, and its sha256.

    Collective. The file is in fp32 and holds every own weight: what a stage does not train is copied from it at the
    end.

    Raises:
        CheckpointError: the weights are not those that their run wrote.
        ModelError: they do not fit the model.
    """
    from pipeline.model.own_weights import WEIGHTS, ZERO_AT_START, load_own_weights

    if start.kind == RUN:
        digest = finished.check_weights(start.folder / WEIGHTS, start.sha256, ranks)
        load_own_weights(model, start.folder, may_lack=ZERO_AT_START)
        return start.folder / WEIGHTS, digest
    folder = Path(recipe.output) / "start"
    broadcast_or_raise(ranks, lambda: _write_start(folder / WEIGHTS, model, start), failure=CheckpointError)
    digest = finished.check_weights(folder / WEIGHTS, None, ranks)
    load_own_weights(model, folder)
    return folder / WEIGHTS, digest


def _write_start(path: Path, model: Any, start: Start) -> None:
    """Write the model's own weights in fp32, those of the starting point in place of its own."""
    from pipeline.model.exported import own_digest, own_tensors
    from pipeline.model.own_weights import ZERO_AT_START, own_state_dict, save_own_weights
    from pipeline.train.exported_fits import adapter_tensors

    taken = own_tensors(start.folder) if start.kind == EXPORTED else adapter_tensors(start.folder)
    if start.sha256 and own_digest(taken) != start.sha256:
        raise CheckpointError(
            f"{start.folder}: its weights are not those that were exported: it was changed or damaged"
        )
    state = own_state_dict(model)
    kept = {name for name in state if name not in taken}
    if odd := sorted(name for name in taken if name not in state or taken.shape(name) != tuple(state[name].shape)):
        shown = ", ".join(f"{n} {taken.shape(n)}" for n in odd[:10]) + (f" and {len(odd) - 10} more" * (len(odd) > 10))
        raise ModelError(f"{start.folder} does not fit the recipe's model: {shown}")
    if start.kind == EXPORTED and (missing := sorted(n for n in kept - ZERO_AT_START if module_of(n) != "lora")):
        raise ModelError(f"{start.folder} lacks {', '.join(missing[:10])}, which the recipe's model has")
    if new := sorted({module_of(name) for name in kept}):
        logger.info("%s: %s not in it, so they start new", start.folder, ", ".join(new))
    temporary = path.with_name(f".{path.name}.partial")
    with writing(path):
        save_own_weights(temporary, state | {n: t.float() for n, t in taken.state().items()}, model.bases)
    temporary.replace(path)
