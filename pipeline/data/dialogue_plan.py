"""Plan the dialogues of Speaker-Reasoner: draw a sample's task and cache entries, and count its cost exactly.

The dialogue that is counted here is built again from the sample's words when it is loaded (dialogue_batch.py); both
use :func:`pipeline.dialogue.build.dialogue`. Entries of a speaker cache are utterances of earlier clips of the same
session, drawn like everything else from (seed, epoch, dataset, key).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from pipeline.data.index_rows import IndexRow
from pipeline.data.keyed_random import keyed_rng, keyed_uniform
from pipeline.data.planned import CachedClip
from pipeline.dialogue.build import CacheEntry, Clip, DialogueRules, dialogue
from pipeline.frames import Stride, audio_positions
from pipeline.prompts import AudioPiece, TextPiece, Turn, WordsPiece
from pipeline.recipe.schema import CacheConfig, DialogueConfig, TaskShares
from pipeline.stages import Task
from shards.errors import PlanError
from shards.sample import SAMPLE_RATE, is_known


@dataclass(frozen=True, slots=True)
class DialogueCost:
    """Sizes of a dialogue."""

    positions: int  # LLM positions of all turns
    targets: int
    slices: tuple[int, ...]  # samples of each audio, in order


@dataclass(frozen=True, slots=True)
class TurnFrame:
    """Tokens around the turns of a dialogue, and what slices are cut from."""

    prefix: int
    between: int
    suffix: int
    num_samples: int
    stride: Stride


def rules_of(config: DialogueConfig) -> DialogueRules:
    """Return the rules of building that a recipe sets."""
    return DialogueRules(config.tau, config.max_turns, config.numbered, config.decimals)


def draw_task(tasks: Sequence[Task], shares: TaskShares, *key: object) -> Task:
    """Draw one of a stage's tasks by their shares.

    Raises:
        PlanError: no task of the stage has a share.
    """
    weights = [asdict(shares)[task.value] for task in tasks]
    if sum(weights) <= 0:
        raise PlanError(f"data.dialogue.tasks gives no share to any task of this stage ({', '.join(tasks)})")
    left = keyed_uniform(*key, "task") * sum(weights)
    for task, weight in zip(tasks, weights, strict=True):
        left -= weight
        if left < 0:
            return task
    return next(task for task, weight in zip(reversed(tasks), reversed(weights), strict=True) if weight > 0)


def draw_cache(
    earlier: Callable[[], Sequence[IndexRow]],
    config: CacheConfig,
    excluded: Collection[str],
    key: tuple[object, ...],
) -> tuple[CachedClip, ...]:
    """Draw the entries of a speaker cache from earlier clips of the session.

    An entry is an utterance of a known speaker without overlap, cut to ``max_seconds``.

    Args:
        earlier: gives the clips of the session before this one; called only if this sample gets a cache.
        excluded: keys that the run excludes.
        key: key of the draw.
    """
    if keyed_uniform(*key, "cache") >= config.share:
        return ()
    rng = keyed_rng(*key, "cache entries")
    rows = [row for row in earlier() if row.key not in excluded and row.facts is not None]
    rows = [rows[i] for i in sorted(rng.permutation(len(rows))[: config.max_clips].tolist())]
    found = [(row, number) for row in rows for number in _usable(row, config)]
    held: dict[str, int] = {}
    seconds = 0.0
    taken: dict[str, list[tuple[IndexRow, int]]] = {}
    for i in rng.permutation(len(found)).tolist():
        row, number = found[i]
        speaker, length = row.facts.segments[number].speaker, _seconds(row, number, config)
        if held.get(speaker, 0) < config.per_speaker and seconds + length <= config.total_seconds:
            held[speaker] = held.get(speaker, 0) + 1
            seconds += length
            taken.setdefault(row.key, []).append((row, number))
    clips = []
    for place, entries in enumerate(taken.values(), 1):
        row = entries[0][0]
        chosen = tuple(_entry(row, number, place, config) for _, number in entries)
        clips.append(CachedClip(row.shard, row.row, row.key, row.num_samples, chosen))
    return tuple(clips)


def _usable(row: IndexRow, config: CacheConfig) -> list[int]:
    """Numbers of a clip's segments that may be entries."""
    assert row.facts is not None
    segments = row.facts.segments
    return [
        i
        for i, s in enumerate(segments)
        if is_known(s.speaker)
        and min(s.end, row.seconds) - s.start >= config.min_seconds
        and all(o.end <= s.start or o.start >= s.end for j, o in enumerate(segments) if j != i)
    ]


def _seconds(row: IndexRow, number: int, config: CacheConfig) -> float:
    assert row.facts is not None
    segment = row.facts.segments[number]
    return min(min(segment.end, row.seconds) - segment.start, config.max_seconds)


def _entry(row: IndexRow, number: int, place: int, config: CacheConfig) -> CacheEntry:
    assert row.facts is not None
    segment = row.facts.segments[number]
    start = min(round(segment.start * SAMPLE_RATE), row.num_samples - 1)
    length = min(round(_seconds(row, number, config) * SAMPLE_RATE), row.num_samples - start)
    return CacheEntry(segment.speaker, start, length, number, place)


def clip_of(row: IndexRow, cached: Sequence[CachedClip], genders: Mapping[str, str]) -> Clip:
    """Return the reference of a planned sample; ``genders`` of its speakers and of the cached ones."""
    assert row.facts is not None
    entries = [entry for clip in cached for entry in clip.entries]
    return Clip(row.facts.segments, row.num_samples, row.facts.language, genders, entries)


def cost(
    turns: Sequence[Turn], tokens: Callable[[WordsPiece], int], text: Callable[[str], int], frame: TurnFrame
) -> DialogueCost:
    """Count a dialogue's tokens and slices.

    Args:
        tokens: of a piece of words.
        text: tokens of a text.
        frame: tokens around turns.
    """
    positions = targets = 0
    slices: list[int] = []
    for number, turn in enumerate(turns):
        positions += frame.suffix + (frame.between if number else frame.prefix)
        for piece in turn.pieces:
            match piece:
                case AudioPiece():
                    length = piece.length if piece.length is not None else frame.num_samples - piece.start
                    slices.append(length)
                    positions += audio_positions(length, frame.stride)
                case WordsPiece():
                    positions += tokens(piece)
                case TextPiece():
                    positions += text(piece.text)
                case _:
                    positions += 1
        answer = sum(tokens(p) if isinstance(p, WordsPiece) else text(p.text) for p in turn.target) + 1
        targets += answer
        positions += answer
    return DialogueCost(positions, targets, tuple(slices))


def plan_dialogue(
    row: IndexRow,
    task: Task,
    config: DialogueConfig,
    cached: Sequence[CachedClip],
    facts_of: Mapping[str, IndexRow],
    text: Callable[[str], int],
    frame: TurnFrame,
) -> DialogueCost:
    """Build a sample's dialogue without its words, and count it.

    Args:
        facts_of: key → row of the cached clips.
        text: tokens of a text.
        frame: tokens around turns.
    """
    assert row.facts is not None
    rows = [row, *(facts_of[clip.key] for clip in cached)]
    genders = {speaker: gender for r in reversed(rows) for speaker, gender in r.facts.genders.items()}  # type: ignore[union-attr]
    turns = dialogue(task, clip_of(row, cached, genders), rules_of(config))
    return cost(turns, lambda p: rows[p.clip].facts.segments[p.segment].tokens, text, frame)  # type: ignore[union-attr]
