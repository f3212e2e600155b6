"""A speaker vector that knows what made it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import SpeakerError

SUFFIX = ".npz"


@dataclass(frozen=True)
class SpeakerVector:
    """One person's vector; numpy takes it as its values."""

    values: np.ndarray  # (dim,) float32 of unit norm
    extractor: str  # id of what made it
    sha256: str  # of that extractor's weights
    warnings: tuple[str, ...] = ()  # on the clips

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype) if copy else np.asarray(self.values, dtype=dtype)

    def save(self, path: str | Path) -> Path:
        """Write the vector with the id and hash of its extractor to ``NAME.npz``."""
        path = Path(path)
        if path.suffix != SUFFIX:
            raise SpeakerError(f"{path}: a speaker vector is saved as NAME{SUFFIX}")
        with path.open("wb") as file:
            np.savez(file, values=self.values, extractor=np.array(self.extractor), sha256=np.array(self.sha256))
        return path

    @classmethod
    def load(cls, path: str | Path) -> SpeakerVector:
        """Read what :meth:`save` wrote.

        Raises:
            SpeakerError: the file is missing or is not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(file["values"], str(file["extractor"]), str(file["sha256"]))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as e:
            raise SpeakerError(f"{path}: not a speaker vector that was saved ({e}): enrol the speaker again") from e


def check_origin(name: str, vector: Any, extractor: str, sha256: str) -> None:
    """Compare what a vector says of its extractor with the model's; an array says nothing, and passes.

    Args:
        vector: a :class:`SpeakerVector`, perhaps of another copy of this module, or an array.
        extractor: id of the model's extractor; empty if unknown.
        sha256: of its weights; empty if unknown.

    Raises:
        SpeakerError: they differ.
    """
    for what, found, expected in (
        ("extractor", getattr(vector, "extractor", ""), extractor),
        ("weights", getattr(vector, "sha256", ""), sha256),
    ):
        if found and expected and found != expected:
            raise SpeakerError(
                f"the vector of {name} was made with {what} {found}, the model was trained with {expected}: "
                "enrol the speaker again with this model's processor"
            )
