"""A second home for checkpoints in another storage, such as ``s3://bucket/prefix``: for a cluster whose disks are lent.

The order is that of the disk: the manifest comes last, so that a copy without one does not count.
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

BLOCK = 1 << 22
Doomed = Callable[[Sequence[dict[str, Any]]], list[int]]  # manifests → steps to delete


class Upload:
    """Copies of one run's checkpoints."""

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
        """Copy what is left of it, and the manifest last, when all that it lists is there.

        Raises:
            StorageError: after retries; or a file has not come there whole.
        """
        manifest = checkpoint.read_manifest(path)
        self._put(path, RECIPE)
        for name, seal in manifest["files"].items():
            there = self._storage.size(f"{path.name}/{name}")
            if there != seal["bytes"]:
                raise StorageError(f"{self.url}/{path.name}/{name}: {there} bytes arrived of {seal['bytes']}")
        self._put(path, MANIFEST)

    def _put(self, path: Path, name: str) -> None:
        try:
            with (path / name).open("rb") as source, self._storage.create(f"{path.name}/{name}", wait=True) as target:
                shutil.copyfileobj(source, target, BLOCK)
        except OSError as e:
            raise StorageError(f"{path / name}: {e.strerror or e}") from e

    def names(self) -> list[str]:
        """Committed copies, oldest first."""
        paths = [p.split("/") for p in self._storage.list(PREFIX)]
        return sorted(p[0] for p in paths if len(p) == 2 and p[1] == MANIFEST)

    def rotate(self, doomed: Doomed, warn: Callable[[str], None]) -> None:
        """Delete copies by the rule of the disk; the manifest goes first. Damaged ones are told and let alone.

        Raises:
            StorageError: the storage failed; copies that should have gone may be there still.
        """
        manifests = []
        for name in self.names():
            where = f"{name}/{MANIFEST}"
            try:
                manifests.append(checkpoint.parse_manifest(self._storage.read(where), f"{self.url}/{where}"))
            except CheckpointError as e:
                warn(f"neither counted nor deleted: {e}")
        for step in doomed(manifests):
            name = checkpoint.name_of(step)
            self._storage.delete(f"{name}/{MANIFEST}")
            for path in list(self._storage.list(f"{name}/")):
                self._storage.delete(path)

    def fetch_newer(self, folder: Path, than: str, warn: Callable[[str], None]) -> bool:
        """Bring the newest whole copy into ``folder``, if it is newer than the checkpoint of that name.

        Raises:
            StorageError: the storage failed.
        """
        for name in reversed([n for n in self.names() if n > than]):
            partial = folder / f".{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for path in self._storage.list(f"{name}/"):
                with self._storage.stream(path) as source, (partial / path.rpartition("/")[2]).open("wb") as target:
                    shutil.copyfileobj(source, target, BLOCK)
            problem = checkpoint.problem_of(partial)
            if problem is None:
                checkpoint.give_name(partial, folder / name)
                return True
            shutil.rmtree(partial, ignore_errors=True)
            warn(f"the copy {self.url}/{name} is broken and passed over: {problem}")
        return False


def newest_anywhere(folder: Path, ranks: Ranks, upload: Upload | None, warn: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint, brought here from its copy where that is newer. Collective.

    Raises:
        CheckpointError: there are checkpoints, but every one is broken, here and there.
        StorageError: the copies cannot be read.
    """
    found: Path | None = None
    lost: CheckpointError | None = None
    try:
        found = checkpoint.newest_whole(folder, ranks, warn)
    except CheckpointError as e:
        lost = e
    if upload is not None:
        than = found.name if found else ""
        if broadcast_or_raise(ranks, lambda: upload.fetch_newer(folder, than, warn), failure=CheckpointError):
            return checkpoint.newest_whole(folder, ranks, warn)
    if lost is not None:
        raise lost
    return found


def open_upload(url: str | None, output: Path) -> Upload | None:
    """Where copies go: under ``url``, in a folder named as the last two of ``output``, ``speakerlm-7b/stage1``.

    All stages of a recipe have one ``trainer.upload``; none may fetch or delete what another put there.

    Raises:
        CheckpointError: it is the run's own folder.
    """
    if url is None:
        return None
    run = output.resolve()
    if "://" not in url and Path(url).resolve() in (run, run / "checkpoints", run.parent.parent):
        raise CheckpointError(f"trainer.upload is {url}, where the checkpoints are anyway; name another place")
    open_storage(url)  # tells a URL that is none, which a folder's name behind it might mend
    return Upload("/".join([url.rstrip("/"), *run.parts[-2:]]))
