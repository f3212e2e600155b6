"""The datasets of the demo, learn and small chains: simulated conversations, packed; single speakers, and several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chain import pack_step, simulate_step
from steps import Step

TRAIN = ("asr", "simulated", "harder")


@dataclass(frozen=True)
class DataSize:
    """Sizes of the datasets that every chain has."""

    asr: int = 2400  # single-speaker utterances, stage 1
    simulated: int = 4800  # conversations of 2–4 speakers, stages 2 and 4
    harder: int = 1600  # the same with rooms, noise and overlap, stages 3 and 4
    test: int = 48  # conversations in each test set
    samples_per_shard: int = 200
    workers: int = 2
    pack_seed: int | None = None  # one for all packs: they draw, and embed, the same enrolment clips


@dataclass(frozen=True)
class Style:
    """Options of `speakerlm-shards simulate`, as ranges such as "2-4"."""

    seconds: str  # of a sample, at most
    alone_words: str  # of the one turn of a single speaker
    words: str  # of a turn in a conversation
    turns: str | None = None  # of a conversation; None: the simulation's own
    pause: str = "0.3"

    @property
    def alone(self) -> tuple[str, ...]:
        """One speaker, one turn."""
        one = ("--speakers", "1-1", "--turns", "1-1", "--words-per-turn", self.alone_words)
        return ("--seconds", self.seconds, *one)

    @property
    def several(self) -> tuple[str, ...]:
        """A conversation of two to four speakers."""
        turns = ("--turns", self.turns) if self.turns else ()
        speakers = ("--speakers", "2-4", *turns, "--words-per-turn", self.words)
        return ("--seconds", self.seconds, *speakers, "--pause", self.pause, "--overlap", "0.1")


@dataclass(frozen=True)
class ConversationSet:
    """One dataset: how much of what, from which recordings."""

    count: int
    seed: int
    options: tuple[str, ...]
    sources: tuple[Path, ...]  # manifests of recordings
    enrol: tuple[Path, ...]  # manifests of enrolment speech; none: without speaker vectors


def standard_sets(
    size: DataSize, style: Style, seeds: tuple[int, int], sources: Sequence[Path], prompts: Path
) -> dict[str, ConversationSet]:
    """Single speakers, conversations, and conversations with rooms and noise: for training and for test.

    Args:
        seeds: of the first training and the first test set; further sets take the next numbers.
        prompts: recordings for enrolment and babble noise.
    """
    rooms = ("--rooms", "pyroomacoustics", "--noise", f"babble:{prompts}", "--snr", "10-20")
    kinds = {"asr": style.alone, "simulated": style.several, "harder": (*style.several, *rooms)}
    counts = {"asr": size.asr, "simulated": size.simulated, "harder": size.harder}
    sets = {}
    for prefix, first in zip(("", "test-"), seeds, strict=True):
        for i, (name, options) in enumerate(kinds.items()):
            count = size.test if prefix else counts[name]
            enrol = () if name == "asr" else (prompts,)  # stage 1 registers no speaker
            sets[prefix + name] = ConversationSet(count, first + i, options, tuple(sources), enrol)
    return sets


def set_steps(
    data: Path, size: DataSize, sets: Mapping[str, ConversationSet], sources: Sequence[str]
) -> Iterator[Step]:
    """Simulate and pack; no test conversation has the speakers, words and order of one in training.

    Args:
        sources: names of the steps that make the recordings.
    """
    mixed = data / "mixed"
    packed: tuple[str, ...] = ()  # one after another: later ones find vectors that earlier ones have embedded
    of_tests = next(made.seed for name, made in sets.items() if name.startswith("test-"))
    for name, made in sets.items():
        first, *more = made.sources
        others = [n for n in TRAIN if name.startswith("test-")]
        unlike = [mixed / n for n in others]
        simulated = simulate_step(first, mixed / name, made.count, made.seed, made.options, unlike, *more)
        yield replace(simulated, after=(*sources, *(f"simulate {n}" for n in others)))
        own = of_tests if name.startswith("test-") else made.seed  # test sets share their enrolment clips
        seed = own if size.pack_seed is None else size.pack_seed
        step = pack_step(mixed / name, data / name, seed, size.workers, size.samples_per_shard, made.enrol)
        yield replace(step, after=(simulated.name, *packed))
        packed = (step.name,)
