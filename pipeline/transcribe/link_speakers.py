"""Link speakers across chunks: a chunk's ``spk0``, ``spk1`` … to earlier speakers, enrolled people, or new ones.

Chunk by chunk, so that a name does not change once it is shown. Within a chunk two labels are two people: the
assignment of labels to people maximises the sum of cosines, and pairs under the threshold are dropped. An unassigned
label becomes a new person if it has a second of speech; with less it is linked to the nearest person. One exception: if
it clearly sounds like a person who has another label already, its turns were aligned to that person's speech, and a new
person made of it would take the other's place in later chunks. It is linked to the nearest other person, and no vector
changes. A person's vector is the mean over the chunks, weighted by seconds; enrolled people keep theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shards.voices.features import unit_norm

ENOUGH_S = 1.0  # of speech for a label to become a new person
CLEARLY = 0.15  # above the threshold: no two packaged speakers come that near (voices.SAME_VOICE)


@dataclass
class Person:
    """A person who was heard or enrolled."""

    name: str
    total: np.ndarray  # sum of vectors × seconds
    seconds: float
    enrolled: bool = False

    @property
    def vector(self) -> np.ndarray:
        """Unit vector (dim,)."""
        return unit_norm(self.total)


@dataclass
class SpeakerLinker:
    """Links the labels of chunks to people."""

    threshold: float
    people: list[Person] = field(default_factory=list)

    def enrol(self, names: Sequence[str], vectors: np.ndarray) -> None:
        """Add people with known vectors."""
        self.people += [Person(n, v, 1.0, enrolled=True) for n, v in zip(names, vectors, strict=True)]

    def link(
        self, voices: Mapping[str, tuple[np.ndarray, float]], taken: Sequence[str] = ()
    ) -> dict[str, tuple[str, float]]:
        """Return label → name and cosine, for the labels of one chunk.

        Args:
            voices: label → (unit vector, seconds of speech).
            taken: names that other labels of this chunk have.
        """
        from scipy.optimize import linear_sum_assignment

        free = [p for p in self.people if p.name not in taken]
        labels = list(voices)
        found: dict[str, tuple[str, float]] = {}
        if free and labels:
            cosines = np.stack([voices[x][0] for x in labels]) @ np.stack([p.vector for p in free]).T
            for row, column in zip(*linear_sum_assignment(-cosines), strict=True):
                if cosines[row, column] >= self.threshold:
                    found[labels[row]] = (free[column].name, float(cosines[row, column]))
                    self._add(free[column], *voices[labels[row]])
        for label in labels:
            if label in found:
                continue
            vector, seconds = voices[label]
            borne = {*taken, *(name for name, _ in found.values())}
            nearest = self._nearest(vector, self.people)
            if nearest and nearest[1] >= self.threshold + CLEARLY and nearest[0] in borne:
                nearest = self._nearest(vector, [p for p in self.people if p.name not in borne])
            elif seconds >= ENOUGH_S:
                nearest = None
            found[label] = nearest or (self._add_new(vector, seconds), 1.0)
        return found

    @staticmethod
    def _nearest(vector: np.ndarray, people: Sequence[Person]) -> tuple[str, float] | None:
        """Return name and cosine of the nearest person."""
        return max(((p.name, float(p.vector @ vector)) for p in people), key=lambda x: x[1], default=None)

    def _add_new(self, vector: np.ndarray, seconds: float) -> str:
        self.people.append(Person(name := self._new_name(), vector * seconds, seconds))
        return name

    def _add(self, person: Person, vector: np.ndarray, seconds: float) -> None:
        if not person.enrolled:
            person.total = person.total + vector * seconds
            person.seconds += seconds

    def _new_name(self) -> str:
        names = {p.name for p in self.people}
        number = 1 + sum(not p.enrolled for p in self.people)
        while f"Speaker {number}" in names:
            number += 1
        return f"Speaker {number}"
