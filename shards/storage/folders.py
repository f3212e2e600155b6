"""The files of a folder of any depth, behind links to folders too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from shards.errors import DataError


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted; none if there is no such folder.

    Links to folders are followed. A folder that several paths lead to is listed once: under its own path if that is
    below `folder`, otherwise under the first link.

    Raises:
        DataError: a link leads to a folder that contains it, or a folder cannot be read.
    """
    found: list[Path] = []
    seen: set[Path] = set()
    links: list[tuple[Path, tuple[Path, ...]]] = [(folder, ())]  # with the folders that contain each, without links
    while links:
        start, above = links.pop(0)
        real = start.resolve()
        if any(real == a or real in a.parents for a in above):
            raise DataError(f"{start}: a link to {real}, a folder that contains it; remove the link")
        if not start.is_dir() or real in seen:
            continue
        for place, folders, files in os.walk(start, onerror=_fail):
            here, own = Path(place), real / Path(place).relative_to(start)
            seen.add(own)
            found += [here / name for name in files]
            folders[:] = [name for name in folders if own / name not in seen]
            links += [(here / name, (*above, own)) for name in sorted(folders) if (here / name).is_symlink()]
    return sorted(found)


def _fail(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: {error.strerror}; change its permissions or move it away") from error
