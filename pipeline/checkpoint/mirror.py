"""Copies of checkpoints in another storage, such as ``s3://bucket/prefix``, for clusters with ephemeral disks.

The manifest is copied last; a copy without a manifest is incomplete and ignored.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.checkpoint import format as checkpoint
from pipeline.checkpoint.format import MANIFEST, PREFIX, RECIPE
from pipeline.ranks.collectives import broadcast_or_raise
from pipeline.ranks.launch import Ranks
from shards.errors import CheckpointError, StorageError
from shards.storage.interface import open_storage
from shards.storage.local import storage_errors

BLOCK = 1 << 22
StepsToDelete = Callable[[Sequence[dict[str, Any]]], list[int]]  # manifests → steps to delete


class Mirror:
    """MirrorThread of one run's checkpoints."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._storage = open_storage(url)

    def put_rank_file(self, path: Path, rank: int) -> None:
        """Copy one rank's file of a checkpoint.

        Raises:
            StorageError: after retries; or the file cannot be read here.
        """
        self._put(path, checkpoint.rank_file(rank))

    def commit(self, path: Path) -> None:
        """Copy the recipe, and the manifest last, once all files that it lists have arrived.

        Raises:
            StorageError: after retries; or a file has not arrived completely.
        """
        manifest = checkpoint.read_manifest(path)
        self._put(path, RECIPE)
        for name, expected in manifest["files"].items():
            size = self._storage.size(f"{path.name}/{name}")
            if size != expected["bytes"]:
                raise StorageError(f"{self.url}/{path.name}/{name}: {size} bytes arrived of {expected['bytes']}")
        self._put(path, MANIFEST)

    def _put(self, path: Path, name: str) -> None:
        try:
            with (path / name).open("rb") as source, self._storage.create(f"{path.name}/{name}", wait=True) as target:
                shutil.copyfileobj(source, target, BLOCK)
        except OSError as e:
            raise StorageError(f"{path / name}: {e.strerror or e}") from e

    def names(self) -> list[str]:
        """Return the names of complete copies, oldest first."""
        paths = [p.split("/") for p in self._storage.list(PREFIX)]
        return sorted(p[0] for p in paths if len(p) == 2 and p[1] == MANIFEST)

    def rotate(self, to_delete: StepsToDelete, warn: Callable[[str], None]) -> None:
        """Delete copies by the run's retention, the manifest first. Damaged copies are logged, then ignored.

        Raises:
            StorageError: the storage failed; some copies may not have been deleted.
        """
        manifests = []
        for name in self.names():
            where = f"{name}/{MANIFEST}"
            try:
                manifests.append(checkpoint.parse_manifest(self._storage.read(where), f"{self.url}/{where}"))
            except CheckpointError as e:
                warn(f"ignored in rotation: {e}")
        for step in to_delete(manifests):
            name = checkpoint.folder_name(step)
            self._storage.delete(f"{name}/{MANIFEST}")
            for path in list(self._storage.list(f"{name}/")):
                self._storage.delete(path)

    def fetch_newer(self, folder: Path, than: str, warn: Callable[[str], None]) -> bool:
        """Download the newest intact copy into ``folder``, if it is newer than the checkpoint named ``than``.

        Raises:
            StorageError: the storage failed.
        """
        for name in reversed([n for n in self.names() if n > than]):
            partial = folder / f".{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for path in self._storage.list(f"{name}/"):
                copy = partial / path.rpartition("/")[2]
                with self._storage.stream(path) as source, storage_errors(copy), copy.open("wb") as target:
                    shutil.copyfileobj(source, target, BLOCK)
            problem = checkpoint.find_damage(partial)
            if problem is None:
                checkpoint.commit_by_rename(partial, folder / name)
                return True
            shutil.rmtree(partial, ignore_errors=True)
            warn(f"the copy {self.url}/{name} is broken and was skipped: {problem}")
        return False


def newest_local_or_mirrored(
    folder: Path, ranks: Ranks, mirror: Mirror | None, warn: Callable[[str], None]
) -> Path | None:
    """Return the newest intact checkpoint, downloaded from the mirror if its copy is newer. Collective.

    Raises:
        CheckpointError: there are checkpoints, but all are broken, on disk and in the mirror.
        StorageError: the copies cannot be read.
    """
    found: Path | None = None
    broken: CheckpointError | None = None
    try:
        found = checkpoint.newest_intact(folder, ranks, warn)
    except CheckpointError as e:
        broken = e
    if mirror is not None:
        than = found.name if found else ""
        if broadcast_or_raise(ranks, lambda: mirror.fetch_newer(folder, than, warn), failure=CheckpointError):
            return checkpoint.newest_intact(folder, ranks, warn)
    if broken is not None:
        raise broken
    return found


def open_mirror(url: str | None, output: Path) -> Mirror | None:
    """Open the mirror under ``url``, in a folder named after the last two parts of ``output``: ``speakerlm-7b/stage1``.

    All stages of a recipe share ``trainer.upload``; no stage may fetch or delete the copies of another.

    Raises:
        CheckpointError: ``url`` is the run's own folder.
    """
    if url is None:
        return None
    run = output.resolve()
    if "://" not in url and Path(url).resolve() in (run, run / "checkpoints", run.parent.parent):
        raise CheckpointError(f"trainer.upload is {url}, which is the folder of the checkpoints; set another one")
    open_storage(url)  # rejects an invalid URL, which a folder name after it might hide
    return Mirror("/".join([url.rstrip("/"), *run.parts[-2:]]))
