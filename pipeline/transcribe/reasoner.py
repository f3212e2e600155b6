"""Transcription of a recording by dialogues: each chunk is one, and the model writes who speaks and when.

    transcriber = ReasonerTranscriber.load("exp/stage13")
    transcript = transcriber.transcribe("meeting.wav", [("Mike", "mike.wav")])

The speaker-aware cache carries speakers from chunk to chunk: speech of each is shown before the next chunk, and the
model gives them the same numbers there. Enrolled people are entries that never leave, and have names. Without the cache
labels hold for one chunk. Memory holds a chunk, its dialogue, and the cache, whose seconds are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.decode.generate import choose_device
from pipeline.decode.load_engine import load_for_dialogues
from pipeline.dialogue.build import DialogueRules
from pipeline.reasoner.cache import CacheRules, SpeakerCache
from pipeline.reasoner.loop import Engine, LoopLimits, OpenDialogues, Outcome, ReasonerClip, reason
from pipeline.transcribe.audio_stream import blocks
from pipeline.transcribe.chunks import Chunker
from pipeline.transcribe.enrolment import check_name, speech_pieces
from pipeline.transcribe.load_model import dialogue_rules
from pipeline.transcribe.load_vad import load_vad
from pipeline.transcribe.side_by_side import Recording, side_by_side
from pipeline.transcribe.stream import Reading, Update
from pipeline.transcribe.transcript import Transcript
from pipeline.transcribe.vad import Vad
from shards.errors import ConfigError, SpeakerError
from shards.manifests.clip_rule import ClipRule
from shards.sample import SAMPLE_RATE

_LABEL = re.compile(r"(Male|Female|Speaker) \d+", re.IGNORECASE)


@dataclass(frozen=True)
class ReasonerOptions:
    """Options of transcription by dialogues."""

    rule: ClipRule = field(default_factory=ClipRule)
    channel: int | None = None  # 0-based; None averages all
    vad: str = "silero"
    language: str = "en"  # of the questions: zh, or any other for English
    cache: CacheRules | None = field(default_factory=CacheRules)  # None: labels hold for one chunk
    limits: LoopLimits = field(default_factory=LoopLimits)


@dataclass(frozen=True)
class KnownPerson:
    """An enrolled person as an entry of the cache."""

    name: str
    audio: np.ndarray  # (S,) float32, 16 kHz
    text: str  # as the model understood it
    gender: str | None


@dataclass(frozen=True)
class KnownPeople:
    """Enrolled people in the given order."""

    people: tuple[KnownPerson, ...] = ()
    warnings: tuple[str, ...] = ()


class ReasonerTranscriber:
    """An engine of dialogues with a voice activity detector."""

    def __init__(
        self,
        engine: Engine,
        options: ReasonerOptions | None = None,
        *,
        model: str = "",
        rules: DialogueRules | None = None,
        weights: Path | None = None,
    ) -> None:
        """Use :meth:`load` for a model on disk.

        Args:
            engine: answers dialogues.
            model: name of the model in transcripts.
            rules: of the dialogues that the model was trained on.
            weights: folder for weights of the detector.
        """
        self.options, self.model = options or ReasonerOptions(), model
        self._engine, self._rules, self._weights = engine, rules or DialogueRules(), weights

    @classmethod
    def load(
        cls,
        model: str | Path,
        options: ReasonerOptions | None = None,
        device: str = "auto",
        weights: Path | None = None,
    ) -> ReasonerTranscriber:
        """Load a finished run of stages 11 to 13, or its export.

        Raises:
            ConfigError: the model has no dialogues.
            ModelError, CheckpointError: the folder cannot be used.
        """
        from pipeline.reasoner.engine import SpeakerLMEngine

        rules = dialogue_rules(Path(model))
        if rules is None:
            raise ConfigError(f"{model} was trained without dialogues (stages 11 to 13): leave --reasoner out")
        network, tokenizer = load_for_dialogues(Path(model), choose_device(device))
        return cls(SpeakerLMEngine(network, tokenizer), options, model=str(model), rules=rules, weights=weights)

    def enrol(self, clips: Iterable[tuple[str, str | Path]]) -> KnownPeople:
        """Make entries of people from (name, audio file); what they say in it is transcribed by the model.

        Raises:
            ConfigError: there is no cache, too many people for it, or a name that it cannot hold.
            AudioError: a file that cannot be read.
            SpeakerError: a clip without speech.
        """
        files: dict[str, list[Path]] = {}
        for name, path in clips:
            check_name(name)
            if _LABEL.fullmatch(name):
                raise ConfigError(f"invalid name {name!r}: the model calls people so who are not enrolled")
            files.setdefault(name, []).append(Path(path))
        if not files:
            return KnownPeople()
        if self.options.cache is None:
            raise ConfigError("people are enrolled, but naming is 'none': choose naming 'model', or enrol no one")
        seconds = seconds_each(len(files), self.options.cache)
        waves = {name: self._speech(name, paths, seconds) for name, paths in files.items()}
        asked = [ReasonerClip(f"enrolment of {n}", wave, self.options.language) for n, wave in waves.items()]
        outcomes = reason(asked, self._engine, self._rules, self.options.limits)
        people, warnings = [], []
        for (name, wave), outcome in zip(waves.items(), outcomes, strict=True):
            people.append(_person(name, wave, outcome))
            warnings += _doubts(name, outcome)
        return KnownPeople(tuple(people), tuple(warnings))

    def _speech(self, name: str, paths: Sequence[Path], seconds: float) -> np.ndarray:
        """Return so much of a person's speech, from each file alike."""
        share = round(seconds * SAMPLE_RATE / len(paths))
        parts = []
        for path in paths:
            pieces = speech_pieces(path, self._vad())
            if not pieces:
                raise SpeakerError(f"{path}: no speech to enrol {name} from; 2–10 s are best")
            parts.append(np.concatenate(pieces)[:share])
        return np.concatenate(parts).astype(np.float32)

    def transcribe(
        self,
        audio: str | Path,
        people: KnownPeople | Iterable[tuple[str, str | Path]] = (),
        progress: Callable[[Transcript], None] | None = None,
    ) -> Transcript:
        """Transcribe a whole recording. After an error in the middle, ``error`` is set and earlier turns are kept.

        Args:
            people: enrolled people, or (name, audio file) to enrol.
            progress: called after each chunk with the transcript so far.

        Raises:
            AudioError: nothing of the recording could be read.
            DataError, ConfigError: people cannot be enrolled.
        """
        transcript = Transcript(str(audio), self.model)
        for transcript in self.stream(audio, people):
            if progress:
                progress(transcript)
        return transcript

    def stream(
        self, audio: str | Path, people: KnownPeople | Iterable[tuple[str, str | Path]] = ()
    ) -> Iterator[Transcript]:
        """Yield the transcript after every batch of chunks, and again at the end; raises as :meth:`transcribe`."""
        for update in self.stream_all([audio], people):
            if update.fault is not None:
                raise update.fault
            yield update.transcript

    def stream_all(
        self, audio: Iterable[str | Path], people: KnownPeople | Iterable[tuple[str, str | Path]] = ()
    ) -> Iterator[Update]:
        """Transcribe recordings side by side, up to ``limits.batch`` dialogues; each transcript is as of it alone.

        A recording of which nothing can be read ends with a fault; the others are transcribed.

        Raises:
            DataError, ConfigError: people cannot be enrolled.
        """
        known = people if isinstance(people, KnownPeople) else self.enrol(people)
        dialogues = OpenDialogues(self._engine, self._rules, self.options.limits)
        return side_by_side((self._recording(n, a, known) for n, a in enumerate(audio)), dialogues)

    def _recording(self, number: int, audio: str | Path, known: KnownPeople) -> Recording:
        names = tuple(p.name for p in known.people)
        transcript = Transcript(str(audio), self.model, names, warnings=list(known.warnings), times="model")
        cache = None
        if self.options.cache is not None:
            cache = SpeakerCache(self.options.cache)
            for p in known.people:
                cache.enrol(p.name, p.audio, p.text, p.gender)
        coming = blocks(Path(audio), self.options.channel, transcript.warnings.append)
        reading = Reading(transcript, Chunker(self._vad(), self.options.rule), coming)
        return Recording(number, reading, self.options.language, cache)

    def _vad(self) -> Vad:
        return load_vad(self.options.vad, self._weights)


def seconds_each(people: int, rules: CacheRules) -> float:
    """Return the seconds of speech of each enrolled person: half of the cache is theirs if they need it.

    Raises:
        ConfigError: they would fill the cache.
    """
    if people * rules.min_seconds > rules.total_seconds:
        most = int(rules.total_seconds / rules.min_seconds)
        raise ConfigError(f"{people} people are enrolled; a cache of {rules.total_seconds:g} s holds at most {most}")
    return max(rules.min_seconds, min(rules.max_seconds, rules.total_seconds / 2 / people))


def _person(name: str, wave: np.ndarray, outcome: Outcome) -> KnownPerson:
    genders = [line.gender for line in outcome.lines if line.gender]
    text = " ".join(line.text for line in outcome.lines if line.text)
    return KnownPerson(name, wave, text, max(set(genders), key=genders.count, default=None))


def _doubts(name: str, outcome: Outcome) -> list[str]:
    heard = {line.number for line in outcome.lines}
    if len(heard) > 1:
        return [f"{name}: the model hears {len(heard)} people in the enrolment; give a clip of one voice"]
    return [] if heard else [f"{name}: the model understands no words of the enrolment"]
