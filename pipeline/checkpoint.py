"""Checkpoints that are whole or not there, and the finished run that the next stage starts from.

A checkpoint is a folder ``checkpoints/step-00001200/``:

=============================  ==================================================================================
``state-00000.safetensors`` …  one file a rank: its slices of the training state (:mod:`pipeline.training_state`)
``recipe.yaml``                the resolved recipe
``manifest.json``              step, plan state, bases, which file holds which elements, size and sha256 of each file
=============================  ==================================================================================

It is written under a temporary name; the manifest comes last, after every file is on disk, and then the folder gets its
name. On resume the newest whole one is used, on any number of ranks; broken ones are named. A finished run has
``weights/model.safetensors`` (fp32, everything but the LLM's base) and, written last, ``done``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import Ranks
from pipeline.stages import module_of
from pipeline.training_state import gather_parameter, read_slices, write_slices
from shards.errors import CheckpointError

if TYPE_CHECKING:
    import torch

FORMAT = 1
MANIFEST = "manifest.json"
DONE = "done"


@dataclass(frozen=True, slots=True)
class RunState:
    """What a checkpoint holds besides tensors."""

    stage: int
    step: int  # optimizer updates made
    plan: dict[str, Any]  # where the data stream goes on
    bases: dict[str, Any]  # hashes of what was loaded and is not saved: the LLM, the encoder, the run it started from
    recipe: str  # resolved, YAML


# ------------------------------------------------------------------------------------------------------------- saving


def save(folder: Path, engine: Any, ranks: Ranks, state: RunState, keep_last: int) -> Path:
    """Write and commit one checkpoint, then delete the oldest beyond ``keep_last``. Collective.

    Raises:
        CheckpointError: on every rank, if any rank could not write; nothing is committed then.
    """
    final = folder / f"step-{state.step:08d}"
    partial = folder / f".{final.name}.partial"
    if ranks.is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    _barrier()
    written = _agree(ranks, lambda: _write_rank_file(partial, engine, ranks))
    _agree(ranks, lambda: _commit(partial, final, state, ranks, written) if ranks.is_first else None)
    if ranks.is_first:
        for old in complete_names(folder)[:-keep_last]:
            shutil.rmtree(folder / old, ignore_errors=True)
    return final


def _write_rank_file(folder: Path, engine: Any, ranks: Ranks) -> dict[str, Any]:
    """This rank's file, and its part of the manifest."""
    from safetensors.torch import save_file

    name = f"state-{ranks.rank:05d}.safetensors"
    tensors: dict[str, torch.Tensor] = {}
    slices: dict[str, list[int]] = {}
    for parameter, kind, start, tensor in read_slices(engine, ranks.rank, ranks.world_size):
        tensors[f"{parameter}|{kind}"] = tensor
        slices[parameter] = [start, start + tensor.numel()]
    save_file(tensors, str(folder / name))
    return {"file": name, "slices": slices, **_seal(folder / name)}


def _commit(partial: Path, final: Path, state: RunState, ranks: Ranks, written: list[dict[str, Any]]) -> None:
    recipe = partial / "recipe.yaml"
    recipe.write_text(state.recipe, encoding="utf-8")
    files = {w["file"]: {"bytes": w["bytes"], "sha256": w["sha256"]} for w in written}
    files[recipe.name] = _seal(recipe)
    slices: dict[str, list[list[Any]]] = {}
    for w in written:
        for parameter, (start, end) in w["slices"].items():
            slices.setdefault(parameter, []).append([w["file"], start, end])
    manifest = {
        "format": FORMAT,
        "stage": state.stage,
        "step": state.step,
        "world_size": ranks.world_size,
        "plan": state.plan,
        "bases": state.bases,
        "slices": slices,
        "files": files,
    }
    write_atomic(partial / MANIFEST, json.dumps(manifest, indent=1))
    if final.exists():  # the same step again, after a resume
        shutil.rmtree(final)
    partial.rename(final)
    sync_folder(final.parent)


def _seal(path: Path) -> dict[str, Any]:
    """Size and hash of a file, once it is on disk."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 22):
            digest.update(block)
        os.fsync(f.fileno())
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def write_atomic(path: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ------------------------------------------------------------------------------------------------------------ loading


def complete_names(folder: Path) -> list[str]:
    """Names of committed checkpoints, oldest first. A folder without its final name was never committed."""
    return sorted(p.name for p in folder.glob("step-*") if p.is_dir()) if folder.is_dir() else []


def problem_of(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be used, or None. Reads every byte."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        return f"{checkpoint / MANIFEST}: {e}"
    if manifest.get("format") != FORMAT:
        return f"{checkpoint}: format {manifest.get('format')}, this code reads {FORMAT}"
    for name, expected in manifest["files"].items():
        try:
            found = _seal(checkpoint / name)
        except OSError as e:
            return f"{checkpoint / name}: {e.strerror}"
        if found != expected:
            return (
                f"{checkpoint / name}: content is not what was written ({found['bytes']} of {expected['bytes']} bytes)"
            )
    return None


def newest_whole(folder: Path, ranks: Ranks, warn: Callable[[str], None]) -> Path | None:
    """The newest usable checkpoint, the same on every rank; None where there is none at all. Collective.

    Raises:
        CheckpointError: there are checkpoints, but every one is broken.
    """

    def choose() -> str | None:
        names = complete_names(folder)
        for name in reversed(names):
            problem = problem_of(folder / name)
            if problem is None:
                return name
            warn(f"checkpoint {name} is broken and passed over: {problem}")
        if names:
            raise CheckpointError(f"every checkpoint in {folder} is broken; move the folder away to start from step 0")
        return None

    name = _agree(ranks, lambda: choose() if ranks.is_first else None)[0]
    return folder / name if name else None


def load(checkpoint: Path, engine: Any, ranks: Ranks, stage: int, bases: dict[str, Any]) -> RunState:
    """Put a checkpoint into a freshly initialised engine of any world size. Collective.

    Raises:
        CheckpointError: it belongs to another stage, other base weights or another model.
    """
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    if manifest["stage"] != stage:
        raise CheckpointError(
            f"{checkpoint} is of stage {manifest['stage']}, this run is stage {stage}: set another output"
        )
    changed = [name for name, value in bases.items() if manifest["bases"].get(name) != value]
    if changed:
        raise CheckpointError(
            f"{checkpoint} was trained on another {' and '.join(changed)} than this run loads: "
            "restore it, or set another output"
        )
    with _SliceReader(checkpoint, manifest) as reader:
        expected = {name for name, p in engine.module.named_parameters() if p.requires_grad}
        if expected != reader.names:
            odd = sorted(expected ^ reader.names)
            raise CheckpointError(f"{checkpoint} holds other trainable parameters than this run, such as {odd[0]}")
        write_slices(engine, ranks.rank, manifest["step"], reader.read)
    recipe = (checkpoint / "recipe.yaml").read_text(encoding="utf-8")
    return RunState(manifest["stage"], manifest["step"], manifest["plan"], manifest["bases"], recipe)


class _SliceReader:
    """Any range of elements of any parameter, from however many files hold it."""

    def __init__(self, checkpoint: Path, manifest: dict[str, Any]) -> None:
        from safetensors import safe_open

        self._slices = manifest["slices"]
        self._files = {
            name: safe_open(str(checkpoint / name), framework="pt")
            for name in manifest["files"]
            if name.endswith(".safetensors")
        }

    def __enter__(self) -> _SliceReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()

    @property
    def names(self) -> set[str]:
        return set(self._slices)

    def read(self, name: str, kind: str, start: int, end: int) -> torch.Tensor:
        """Elements [start, end) as a flat fp32 tensor."""
        import torch

        out = torch.empty(end - start, dtype=torch.float32)
        covered = 0
        for file, first, last in self._slices[name]:
            a, b = max(start, first), min(end, last)
            if a < b:
                out[a - start : b - start] = self._files[file].get_slice(f"{name}|{kind}")[a - first : b - first]
                covered += b - a
        if covered != end - start:
            raise CheckpointError(
                f"{name}: elements {start}–{end} are not all in the checkpoint: it is of another model size"
            )
        return out


# ---------------------------------------------------------------------------------------------------------- stage end


def save_weights(path: Path, engine: Any, ranks: Ranks, source: Path | None, metadata: dict[str, str]) -> str:
    """Gather all but the LLM's base weights to rank 0, one parameter at a time, and write them as fp32. Collective.

    Args:
        source: weights that this stage started from; what it did not train is copied from there in fp32, not taken from
            the (perhaps bf16) copy of the forward pass.
        metadata: strings kept in the safetensors header.

    Returns:
        sha256 of the file, on every rank.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, p in engine.module.named_parameters():
        if module_of(name) != "llm" and (p.requires_grad or source is None):
            full = gather_parameter(p, master=True)
            if ranks.is_first:
                tensors[name] = full
    return str(_agree(ranks, lambda: _write_weights(path, tensors, source, metadata) if ranks.is_first else "")[0])


def _write_weights(path: Path, tensors: dict[str, torch.Tensor], source: Path | None, metadata: dict[str, str]) -> str:
    from safetensors.torch import load_file, save_file

    if source is not None:
        tensors = {**load_file(source), **tensors}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    save_file({name: t.contiguous() for name, t in tensors.items()}, str(temporary), metadata=metadata)
    digest = str(_seal(temporary)["sha256"])
    temporary.replace(path)
    sync_folder(path.parent)
    return digest


def write_done(run: Path, content: dict[str, Any]) -> None:
    """Mark a run as finished: the last thing that a stage does."""
    write_atomic(run / DONE, json.dumps(content, indent=1))


def check_weights(path: Path, sha256: str, ranks: Ranks) -> None:
    """Raise, on every rank, unless a weights file is the one that its run wrote. Collective."""

    def check() -> None:
        if _seal(path)["sha256"] != sha256:
            raise CheckpointError(f"{path} is not the file that its run wrote: it was changed or damaged")

    _agree(ranks, lambda: check() if ranks.is_first else None)


def read_done(run: Path) -> dict[str, Any]:
    """The ``done`` marker of a finished run.

    Raises:
        CheckpointError: the run has not finished, or there is none.
    """
    try:
        return dict(json.loads((run / DONE).read_text(encoding="utf-8")))
    except FileNotFoundError as e:
        state = "has not finished" if run.is_dir() else "does not exist"
        raise CheckpointError(f"{run} {state} (no {DONE} marker): run that stage to its end first") from e
    except ValueError as e:
        raise CheckpointError(f"{run / DONE} is not readable: {e}") from e


# --------------------------------------------------------------------------------------------------------- agreements


def first_rank_first(ranks: Ranks, work: Callable[[], Any]) -> None:
    """Let rank 0 do something whose result on disk the others then find. Collective."""
    if ranks.is_first:
        work()
    _barrier()
    if not ranks.is_first:
        work()


def merged(ranks: Ranks, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What all ranks list, each item once, in one order. Collective."""
    lists = _agree(ranks, lambda: items)
    return [json.loads(text) for text in sorted({json.dumps(item, sort_keys=True) for each in lists for item in each})]


def _barrier() -> None:
    import torch

    torch.distributed.barrier()


def _agree(ranks: Ranks, work: Callable[[], Any]) -> list[Any]:
    """Do ``work`` on each rank; all ranks get all results, or all raise if one failed."""
    import torch
    from safetensors import SafetensorError

    mine: tuple[Any, str | None]
    try:
        mine = (work(), None)
    except (OSError, SafetensorError, CheckpointError) as e:
        mine = (None, f"rank {ranks.rank}: {e}")
    everyone: list[Any] = [None] * ranks.world_size
    torch.distributed.all_gather_object(everyone, mine)
    failures = [problem for _, problem in everyone if problem]
    if failures:
        raise CheckpointError("; ".join(failures))
    return [result for result, _ in everyone]
