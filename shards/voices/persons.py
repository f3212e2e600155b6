"""Persons who have one speaker id in the manifest to pack and another one in the enrolment manifests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.manifests.manifest import SPEAKERS, SpeakerInfo, read_speakers


@dataclass(frozen=True)
class OtherIds:
    """A speaker of the manifest, and the ids of the same person in the enrolment manifests."""

    info: SpeakerInfo
    ids: tuple[str, ...]


def other_ids(manifest: str | Path, enrol: Sequence[str | Path]) -> list[OtherIds]:
    """List the speakers of a manifest whose own id no enrolment manifest has, but whose person one has.

    Raises:
        ManifestError: a file of speakers is damaged, or missing in an enrolment manifest.
    """
    if not (Path(manifest) / SPEAKERS).is_file() or all(Path(e).absolute() == Path(manifest).absolute() for e in enrol):
        return []
    speakers, persons = set[str](), dict[str, dict[str, None]]()
    for folder in enrol:
        for info in read_speakers(folder):
            speakers.add(info.speaker)
            if info.person is not None:
                persons.setdefault(info.person, {})[info.speaker] = None
    infos = {s.speaker: s for s in read_speakers(manifest)}.values()
    new = (s for s in infos if s.speaker not in speakers and s.person is not None and s.person in persons)
    return [OtherIds(s, tuple(persons[s.person or ""])) for s in new]


def hash_of(others: Sequence[OtherIds]) -> str | None:
    """Return the sha256 of a list; None if it is empty."""
    content = json.dumps([(o.info.speaker, o.info.person, o.ids) for o in others])
    return hashlib.sha256(content.encode()).hexdigest() if others else None
