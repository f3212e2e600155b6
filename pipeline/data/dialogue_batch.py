"""The dialogue of a loaded sample: its turns with their words, and the audio of each slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.data.dialogue_plan import rules_of
from pipeline.data.planned import PlannedSample
from pipeline.dialogue.build import Clip, dialogue
from pipeline.prompts import AudioPiece, Part, Turn, WordsPiece, words_text
from pipeline.recipe.schema import DialogueConfig
from pipeline.stages import Task
from shards.sample import Sample


def turns_of(planned: PlannedSample, samples: Sequence[Sample], config: DialogueConfig) -> tuple[Turn, ...]:
    """Build the turns of a planned sample.

    Args:
        samples: the sample, and its cached clips after it.
    """
    assert isinstance(planned.mode, Task)
    genders: Mapping[str, str] = {
        speaker: gender for sample in reversed(samples) for speaker, gender in sample.genders.items()
    }
    sample = samples[0]
    entries = [entry for clip in planned.cached for entry in clip.entries]
    clip = Clip(sample.segments, sample.num_samples, sample.language, genders, entries)
    return dialogue(planned.mode, clip, rules_of(config))


def words_of(piece: WordsPiece, samples: Sequence[Sample]) -> str:
    """Return the text of a piece of words."""
    return words_text(samples[piece.clip].segments[piece.segment].text)


def slice_of(piece: AudioPiece, waves: Sequence[np.ndarray]) -> np.ndarray:
    """Return the audio of a piece, (S,) float32."""
    wave = waves[piece.clip]
    return wave[piece.start :] if piece.length is None else wave[piece.start : piece.start + piece.length]


def part_weights(config: DialogueConfig) -> dict[Part, float]:
    """Return the weight of each part of a target in the loss.

    The boundary loss is added to the language model's, so a bound counts once in each.
    """
    return {
        Part.TEXT: 1.0,
        Part.LABEL: config.label_weight,
        Part.TIME: config.time_weight,
        Part.BOUNDARY: 1.0 + config.boundary_weight,
    }
