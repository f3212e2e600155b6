"""Turns that any diarizer wrote to a file: RTTM, pyannote's JSON, Sortformer's lines, SegLST …, for any recogniser.

A diarizer that needs an environment of its own runs there, over the same audio; its output is read here.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np

from pipeline.baselines.interfaces import DiarizedTurn
from pipeline.evaluation.formats import files, read
from pipeline.evaluation.records import NO_NAME, by_session, times_of
from shards.errors import ConfigError

logger = logging.getLogger(__name__)


class StoredTurns:
    """Turns by session; a clip's session is its key, a recording's its file name without suffix."""

    def __init__(self, path: Path) -> None:
        """Read a file or folder of any format with times; of a folder that has RTTM files only these.

        pyannote's command writes ``SESSION.json`` beside each ``SESSION.rttm``.

        Raises:
            ConfigError: there is no such file, or it has no turn.
            ScoreError: it cannot be read, or a turn has no times.
        """
        if not path.exists():
            raise ConfigError(f"turns@{path}: no such file; name the RTTM that a diarizer wrote")
        kind = "rttm" if path.is_dir() and any(path.glob("*.rttm")) else None
        self._turns = {
            session: sorted(
                (DiarizedTurn(r.speaker or NO_NAME, *times_of(r, "a diarizer's output")) for r in rows),
                key=lambda t: (t.start, t.end),
            )
            for session, rows in by_session(read(path, kind)).items()
        }
        if not self._turns:
            raise ConfigError(f"turns@{path}: no turn in it")
        digest = hashlib.sha256(b"".join(f.read_bytes() for f in files(path, kind)))
        self.id = f"turns of {path.name} ({digest.hexdigest()[:8]})"

    def turns(self, wave: np.ndarray, session: str = "") -> list[DiarizedTurn]:
        """See :class:`~pipeline.baselines.interfaces.Diarizer`; a session without turns gets a warning."""
        if session not in self._turns:
            known = next(iter(self._turns))
            logger.warning("%s has no turns of %s; its sessions are called like %s", self.id, session, known)
        return [t for t in self._turns.get(session, []) if t.end > t.start]
