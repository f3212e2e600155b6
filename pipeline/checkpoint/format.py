"""Checkpoint format: atomic commit, verification, and loading on any number of ranks.

A checkpoint is a folder ``checkpoints/step-00001200/``:

=============================  ==================================================================================
``state-00000.safetensors`` …  one file per rank: its slices of :mod:`pipeline.checkpoint.training_state`
``recipe.yaml``                the resolved recipe
``manifest.json``              step, plan state, bases, which file holds which elements, size and sha256 of each file
=============================  ==================================================================================

It is written under a temporary name; the manifest is written last, after every file is on disk, and then the folder is
renamed. A run resumes from the newest intact one, on any number of ranks; broken ones are logged and renamed.
:mod:`pipeline.checkpoint.saver` decides when to write them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint.training_state import parameter_numel, read_slices, write_slices
from pipeline.ranks.collectives import broadcast_or_raise
from pipeline.ranks.launch import Ranks
from pipeline.recipe.load import changes
from pipeline.recipe.schema import Recipe
from shards.errors import CheckpointError
from shards.storage.local import atomic_file, retried, sync_folder

if TYPE_CHECKING:
    import torch

FORMAT = 2
MANIFEST = "manifest.json"
RECIPE = "recipe.yaml"
PREFIX = "step-"
FIXED = {  # settings that a run cannot change, in addition to those in the plan's identity and in the parameters' sizes
    "seed",
    "model.extractor",
    "model.speaker_dim",
    "model.encoder.class_name",
    *(f"model.lora.{name}" for name in ("r", "alpha", "targets")),
    *(f"model.projector.{name}" for name in ("layers", "heads", "ffn", "stride")),
}


@dataclass(frozen=True, slots=True)
class RunState:
    """State of a run other than tensors."""

    stage: int
    step: int  # global steps, including skipped ones
    plan: dict[str, Any]  # position in the data
    bases: dict[str, Any]  # hashes of weights that are loaded and not saved: LLM, encoder, previous run
    recipe: str  # resolved, YAML
    health: dict[str, Any] = field(default_factory=lambda: {"updates": 0})  # of :class:`pipeline.train.spikes.Health`
    validation: dict[str, float | None] | None = None  # figures of these weights, if they were validated


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A rank's slices of the training state in CPU memory; training may continue while they are written."""

    tensors: dict[str, torch.Tensor]  # "parameter|kind" → flat fp32
    slices: dict[str, tuple[int, int]]  # parameter → elements [start, end)

    @property
    def bytes(self) -> int:
        """Size in memory, and approximately on disk."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())


# ------------------------------------------------------------------------------------------------------------- saving


def folder_name(step: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"{PREFIX}{step:08d}"


def rank_file(rank: int) -> str:
    """Return the name of a rank's file in a checkpoint."""
    return f"state-{rank:05d}.safetensors"


def partial_folder(folder: Path, step: int) -> Path:
    """Return the folder in which a checkpoint is written before it is committed."""
    return folder / f".{folder_name(step)}.partial"


def snapshot(engine: Any, ranks: Ranks) -> Snapshot:
    """Copy this rank's slices to CPU memory. Collective under ZeRO-1 and -2."""
    tensors: dict[str, torch.Tensor] = {}
    slices: dict[str, tuple[int, int]] = {}
    for parameter, kind, start, tensor in read_slices(engine, ranks.rank, ranks.world_size):
        tensors[f"{parameter}|{kind}"] = tensor
        slices[parameter] = (start, start + tensor.numel())
    return Snapshot(tensors, slices)


def write_rank_file(folder: Path, held: Snapshot, rank: int) -> dict[str, Any]:
    """Write one rank's file and return its part of the manifest."""
    from safetensors.torch import save_file

    name = rank_file(rank)
    with writing(folder / name):
        save_file(held.tensors, str(folder / name))
        return {"file": name, "slices": held.slices, **file_digest(folder / name)}


def commit(folder: Path, state: RunState, written: Sequence[dict[str, Any]]) -> Path:
    """Write the manifest and rename the folder. ``written``: results of :func:`write_rank_file` on all ranks."""
    partial, final = partial_folder(folder, state.step), folder / folder_name(state.step)
    recipe = partial / RECIPE
    files = {w["file"]: {"bytes": w["bytes"], "sha256": w["sha256"]} for w in written}
    with writing(recipe):
        recipe.write_text(state.recipe, encoding="utf-8")
        files[recipe.name] = file_digest(recipe)
    slices: dict[str, list[list[Any]]] = {}
    for w in written:
        for parameter, (start, end) in w["slices"].items():
            slices.setdefault(parameter, []).append([w["file"], start, end])
    manifest = {
        "format": FORMAT,
        "stage": state.stage,
        "step": state.step,
        "world_size": len(written),
        "validation": state.validation,
        "health": state.health,
        "plan": state.plan,
        "bases": state.bases,
        "slices": slices,
        "files": files,
    }
    write_atomic(partial / MANIFEST, json.dumps(manifest, indent=1))
    commit_by_rename(partial, final)
    return final


def commit_by_rename(partial: Path, final: Path) -> None:
    """Rename a complete folder into place, durably."""
    if final.exists():  # from the same step; it was found broken, or it would not be written again
        remove(final)
    partial.rename(final)
    sync_folder(final.parent)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint; it is renamed first, so that a kill in between leaves nothing that looks like one."""
    removed = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    checkpoint.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process left of a save or of a removal."""
    for path in [*folder.glob(f".{PREFIX}*.partial"), *folder.glob(f".{PREFIX}*.removed")]:
        shutil.rmtree(path, ignore_errors=True)


def file_digest(path: Path) -> dict[str, Any]:
    """Sync a file to disk and return its size and sha256."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 22):
            digest.update(block)
        os.fsync(f.fileno())
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in an error of writing it: the operating system names it only if it cannot be opened.

    Raises:
        CheckpointError: the disk is full, or another error of the operating system.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as e:
        why = getattr(e, "strerror", None) or e
        raise CheckpointError(f"{path}: {why}; earlier checkpoints are intact, the run resumes from the last") from e


def write_atomic(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic_file(path, wait=True) as f:
        f.write(text.encode())


# ------------------------------------------------------------------------------------------------------------ loading


def committed_names(folder: Path) -> list[str]:
    """Return the names of committed checkpoints, oldest first."""
    return sorted(p.name for p in folder.glob(f"{PREFIX}*") if p.is_dir()) if folder.is_dir() else []


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest.

    Raises:
        CheckpointError: it is missing, unreadable or damaged.
    """
    path = checkpoint / MANIFEST
    try:
        return parse_manifest(path.read_bytes(), str(path))
    except OSError as e:
        raise CheckpointError(f"{path}: {e}") from e


def parse_manifest(text: bytes, where: str) -> dict[str, Any]:
    """Parse a manifest.

    Raises:
        CheckpointError: the bytes are not a manifest; the message names ``where`` they came from.
    """
    try:
        manifest = json.loads(text)
    except ValueError as e:
        raise CheckpointError(f"{where}: {e}") from e
    if not isinstance(manifest, dict) or not manifest.keys() >= {"format", "files", "step"}:
        raise CheckpointError(f"{where}: is not a checkpoint's manifest")
    return manifest


def find_damage(checkpoint: Path) -> str | None:
    """Return why a checkpoint is broken, or None. Reads every byte.

    Raises:
        CheckpointError: it has another format version, or cannot be read at this moment; neither is damage.
    """
    path = checkpoint / MANIFEST
    try:
        try:
            manifest = parse_manifest(retried(path.read_bytes), str(path))
        except CheckpointError as e:
            return str(e)
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{checkpoint} has format {manifest['format']}, this code reads {FORMAT}: continue with the "
                "version that wrote it, or set another output"
            )
        for name, expected in manifest["files"].items():
            path = checkpoint / name
            found = retried(lambda: file_digest(path))  # noqa: B023 - called at once
            if found != expected:
                return f"{path}: content is not what was written ({found['bytes']} of {expected['bytes']} bytes)"
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as e:
        return f"{path}: {e.strerror}"
    except OSError as e:
        raise CheckpointError(
            f"{path}: {e.strerror or e}. It may be intact, so it is not skipped: start again when "
            f"the filesystem works, or move {checkpoint} away to resume from the one before"
        ) from e
    return None


def newest_intact(folder: Path, ranks: Ranks, warn: Callable[[str], None]) -> Path | None:
    """Return the newest intact checkpoint, the same on every rank; None if there are no checkpoints. Collective.

    Newer ones that are broken are renamed to ``broken-step-…``: the run will write these steps again, and rotation must
    not count them.

    Raises:
        CheckpointError: there are checkpoints, but all are broken.
    """

    def choose() -> str | None:
        names = committed_names(folder)
        broken: list[str] = []
        for name in reversed(names):
            problem = find_damage(folder / name)
            if problem is None:
                for other in broken:
                    _set_aside(folder / other)
                return name
            warn(f"checkpoint {name} is broken and was skipped: {problem}")
            broken.append(name)
        if names:
            raise CheckpointError(f"every checkpoint in {folder} is broken; move the folder away to start from step 0")
        return None

    name = broadcast_or_raise(ranks, choose, failure=CheckpointError)
    return folder / name if name else None


def _set_aside(checkpoint: Path) -> None:
    aside = checkpoint.with_name(f"broken-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):  # a read-only disk is not rotated either
        checkpoint.rename(aside)


def load(
    checkpoint: Path, engine: Any, ranks: Ranks, recipe: Recipe, bases: dict[str, Any], warn: Callable[[str], None]
) -> RunState:
    """Load a checkpoint into a newly initialised engine of any world size. Collective.

    ``warn`` is called with the text of a warning if other settings have changed.

    Raises:
        CheckpointError: it belongs to another stage, other base weights or another model.
    """
    manifest = read_manifest(checkpoint)
    if manifest["stage"] != recipe.stage:
        raise CheckpointError(
            f"{checkpoint} is of stage {manifest['stage']}, this run is stage {recipe.stage}: set another output"
        )
    changed = [name for name, value in bases.items() if manifest["bases"].get(name) != value]
    if changed:
        raise CheckpointError(
            f"{checkpoint} was trained on another {' and '.join(changed)} than this run loads: "
            "restore it, or set another output"
        )
    saved_recipe = (checkpoint / RECIPE).read_text(encoding="utf-8")
    _check_recipe(checkpoint, saved_recipe, recipe, warn)
    with SliceReader(checkpoint, manifest) as reader:
        reader.check({n: parameter_numel(p) for n, p in engine.module.named_parameters() if p.requires_grad})
        write_slices(engine, ranks.rank, manifest["health"]["updates"], reader.read)
    named = {name: manifest[name] for name in ("stage", "step", "plan", "bases", "health")}
    return RunState(recipe=saved_recipe, validation=manifest.get("validation"), **named)


def _check_recipe(checkpoint: Path, saved: str, recipe: Recipe, warn: Callable[[str], None]) -> None:
    changed = {k: f"{k} was {old}, is {new}" for k, (old, new) in changes(saved, recipe).items()}
    if fixed := [text for key, text in changed.items() if key in FIXED]:
        raise CheckpointError(
            f"{checkpoint} is of another recipe: {'; '.join(fixed)}. Restore it, or set another output"
        )
    if changed:
        warn(f"the recipe is not that of {checkpoint}: {'; '.join(changed.values())}")


class SliceReader:
    """Reads any range of elements of any parameter, from one or more files."""

    def __init__(self, checkpoint: Path, manifest: dict[str, Any]) -> None:
        from safetensors import safe_open

        self._checkpoint = checkpoint
        self._slices = manifest["slices"]
        self._files = {
            name: safe_open(str(checkpoint / name), framework="pt")
            for name in manifest["files"]
            if name.endswith(".safetensors")
        }

    def __enter__(self) -> SliceReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()

    def check(self, sizes: dict[str, int]) -> None:
        """Raise unless the checkpoint holds exactly these parameters with these numbers of elements."""
        saved = {name: sum(end - start for _, start, end in parts) for name, parts in self._slices.items()}
        if odd := sorted(saved.keys() ^ sizes.keys()):
            raise CheckpointError(
                f"{self._checkpoint} holds other trainable parameters than this run, such as {odd[0]}"
            )
        if other := [name for name in sizes if saved[name] != sizes[name]]:
            raise CheckpointError(
                f"{self._checkpoint} is of another model size: {other[0]} has {saved[other[0]]} elements there, "
                f"{sizes[other[0]]} here"
            )

    def read(self, name: str, kind: str, start: int, end: int) -> torch.Tensor:
        """Return elements [start, end) as a flat fp32 tensor."""
        import torch

        out = torch.empty(end - start, dtype=torch.float32)
        covered = 0
        for file, first, last in self._slices[name]:
            a, b = max(start, first), min(end, last)
            if a < b:
                out[a - start : b - start] = self._files[file].get_slice(f"{name}|{kind}")[a - first : b - first]
                covered += b - a
        if covered != end - start:
            raise CheckpointError(f"{self._checkpoint}: {name}: some of the elements {start}–{end} are missing")
        return out
