"""Chunk speakers → people, on made-up vectors with the cosines that matter."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.transcribe.link_speakers import CLEARLY, SpeakerLinker

THRESHOLD = 0.5
ANN, BEA, CEM, NOBODY = np.eye(4)


def like(person: np.ndarray, cosine: float, other: np.ndarray = NOBODY) -> np.ndarray:
    """A unit vector at this cosine from a person, the rest of it like ``other``."""
    return cosine * person + np.sqrt(1 - cosine**2) * other


def linker(**people: np.ndarray) -> SpeakerLinker:
    """With these people enrolled."""
    made = SpeakerLinker(THRESHOLD)
    made.enrol(list(people), np.stack(list(people.values())))
    return made


def names(found: dict[str, tuple[str, float]]) -> dict[str, str]:
    return {label: name for label, (name, _) in found.items()}


def test_assignment_maximises_the_sum_of_cosines():
    link = linker(Ann=ANN, Bea=BEA)
    first, second = like(ANN, 0.9), like(ANN, 0.7, BEA)  # both nearer to Ann
    assert names(link.link({"spk0": (second, 5.0), "spk1": (first, 5.0)})) == {"spk0": "Bea", "spk1": "Ann"}


def test_unknown_voice_is_a_new_person_and_recognised_later():
    link = linker(Ann=ANN)
    assert names(link.link({"spk0": (like(ANN, 0.9), 5.0), "spk1": (BEA, 5.0)}))["spk1"] == "Speaker 1"
    assert names(link.link({"spk0": (like(BEA, 0.8), 5.0)})) == {"spk0": "Speaker 1"}


def test_half_a_second_makes_no_new_person():
    link = linker(Ann=ANN, Bea=BEA)
    assert names(link.link({"spk0": (like(BEA, 0.3, CEM), 0.5)})) == {"spk0": "Bea"}
    assert len(link.people) == 2


def test_turns_aligned_to_another_speakers_speech_make_no_new_person():
    link = linker(Ann=ANN, Bea=BEA)
    misplaced = like(ANN, THRESHOLD + CLEARLY + 0.1, like(BEA, 0.5))
    found = link.link({"spk0": (like(ANN, 0.9), 20.0), "spk1": (misplaced, 8.0)})
    assert names(found) == {"spk0": "Ann", "spk1": "Bea"}
    assert [p.name for p in link.people] == ["Ann", "Bea"]
    assert names(link.link({"spk0": (misplaced, 20.0)})) == {"spk0": "Ann"}  # no other label has that voice


def test_turns_aligned_to_a_named_speakers_speech_make_no_new_person():
    link = linker(Ann=ANN, Bea=BEA)
    assert names(link.link({"spk0": (like(ANN, 0.9, BEA), 8.0)}, taken=["Ann"])) == {"spk0": "Bea"}


@pytest.mark.parametrize("cosine", [0.3, THRESHOLD + 0.07])
def test_two_similar_voices_in_a_chunk_are_two_people(cosine: float):
    """0.57 is what the two closest packaged speakers have."""
    link = linker(Ann=ANN, Bea=BEA)
    found = link.link({"spk0": (ANN, 5.0), "spk1": (like(ANN, cosine), 5.0)})
    assert names(found) == {"spk0": "Ann", "spk1": "Speaker 1"}


def test_first_label_is_a_new_person():
    link = SpeakerLinker(THRESHOLD)
    found = link.link({"spk0": (ANN, 5.0), "spk1": (like(ANN, 0.8), 5.0)})
    assert names(found) == {"spk0": "Speaker 1", "spk1": "Speaker 2"}


def test_vectors_of_heard_people_are_updated_and_enrolled_ones_are_not():
    link = linker(Ann=ANN)
    link.link({"spk0": (like(ANN, 0.8), 5.0), "spk1": (BEA, 5.0)})
    link.link({"spk0": (like(BEA, 0.6), 5.0)})
    ann, new = link.people
    assert np.allclose(ann.vector, ANN)
    assert new.vector @ BEA < 0.95
