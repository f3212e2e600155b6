"""Final weights of a stage, and the ``done`` marker that the next stage starts from.

A finished run has ``weights/model.safetensors`` (fp32, everything but the LLM's base) and, written last, ``done``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint.format import file_digest, write_atomic, writing
from pipeline.checkpoint.training_state import gather_parameter
from pipeline.ranks.collectives import broadcast_or_raise
from pipeline.ranks.launch import Ranks
from pipeline.stages import module_of
from shards.errors import CheckpointError
from shards.storage.local import sync_folder

if TYPE_CHECKING:
    import torch

DONE = "done"


def save_weights(path: Path, engine: Any, ranks: Ranks, source: Path | None, bases: dict[str, str]) -> str:
    """Gather all but the LLM's base weights to rank 0, one parameter at a time, and write them as fp32. Collective.

    Args:
        source: weights that this stage started from; what it did not train is copied from there in fp32, not taken from
            the (perhaps bf16) copy of the forward pass.
        bases: hashes of what the run loaded, kept in the safetensors header; ``init_from`` is that of ``source``.

    Returns:
        sha256 of the file, on every rank.

    Raises:
        CheckpointError: ``source`` has changed since this stage started.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, p in engine.module.named_parameters():
        if module_of(name) != "llm" and (p.requires_grad or source is None):
            full = gather_parameter(p, master=True)
            if ranks.is_first:
                tensors[name] = full
    return str(broadcast_or_raise(ranks, lambda: _write_weights(path, tensors, source, bases), failure=CheckpointError))


def _write_weights(path: Path, tensors: dict[str, torch.Tensor], source: Path | None, bases: dict[str, str]) -> str:
    from safetensors.torch import load_file

    from pipeline.model.own_weights import save_own_weights

    if source is not None:
        if file_digest(source)["sha256"] != bases["init_from"]:  # days have passed since it was loaded
            raise CheckpointError(
                f"{source} has changed since this stage started, and the weights that it did not train are read "
                "from there: restore it and start the same command again, which resumes from the last checkpoint"
            )
        tensors = {**load_file(source), **tensors}
    temporary = path.with_name(f".{path.name}.partial")
    with writing(path):
        save_own_weights(temporary, tensors, bases)
        digest = str(file_digest(temporary)["sha256"])
    temporary.replace(path)
    sync_folder(path.parent)
    return digest


def check_weights(path: Path, sha256: str | None, ranks: Ranks) -> str:
    """Check and return the sha256 of a weights file. Collective.

    Raises:
        CheckpointError: on every rank, if it is not the file that its run wrote (``sha256``; None: not checked).
    """

    def check() -> str:
        found = str(file_digest(path)["sha256"])
        if found != (sha256 or found):
            raise CheckpointError(f"{path} is not the file that its run wrote: it was changed or damaged")
        return found

    return str(broadcast_or_raise(ranks, check, failure=CheckpointError))


def write_done(run: Path, content: dict[str, Any]) -> None:
    """Write the ``done`` marker, the last file of a stage."""
    write_atomic(run / DONE, json.dumps(content, indent=1))


def is_done(run: Path) -> bool:
    """Return whether a run is finished."""
    return (run / DONE).exists()


def read_done(run: Path) -> dict[str, Any]:
    """Read the ``done`` marker of a finished run.

    Raises:
        CheckpointError: the run does not exist or has not finished, or its marker is damaged.
    """
    advice = "remove it and start the same command again: the stage resumes from its last checkpoint"
    try:
        done = json.loads((run / DONE).read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        state = "has not finished" if run.is_dir() else "does not exist"
        raise CheckpointError(f"{run} {state} (no {DONE} marker): run that stage to its end first") from e
    except ValueError as e:
        raise CheckpointError(f"{run / DONE} is damaged ({e}); {advice}") from e
    if not isinstance(done, dict) or not {"stage", "weights_sha256"} <= done.keys():
        raise CheckpointError(f"{run / DONE} is damaged (stage or weights are missing); {advice}")
    return done
