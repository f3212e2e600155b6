"""Transcription of a recording: a stream of chunks, each decoded, aligned in time, and its speakers named.

The vectors of enrolled people are in the prompt and the model writes their names. All other speakers are named by voice
(:mod:`pipeline.transcribe.link_speakers`). Times of turns are estimates (:mod:`pipeline.transcribe.turn_times`), and
marked so. An exported folder carries this module; :mod:`pipeline.transcribe.transcriber` loads what it needs here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.decode.generate import Answer
from pipeline.evaluation.parse import ParsedTurn, parse
from pipeline.model.stopping import Guards
from pipeline.prompts import Mode, Prompt, prompt_pieces
from pipeline.transcribe.audio_stream import Sound, blocks
from pipeline.transcribe.chunks import Chunk, Chunker
from pipeline.transcribe.enrolment import SAME_VOICE, Enrolled, enrol, windows
from pipeline.transcribe.link_speakers import SpeakerLinker
from pipeline.transcribe.stream import stream
from pipeline.transcribe.transcript import ChunkResult, Transcript, TranscriptTurn, readable
from pipeline.transcribe.turn_times import align, proportional
from shards.errors import ConfigError
from shards.manifests.clip_rule import ClipRule

if TYPE_CHECKING:
    from pipeline.transcribe.vad import Vad
    from shards.voices.extractors import Extractor

Naming = Literal["model", "voice", "none"]
NO_ENROLMENT = Enrolled((), np.zeros((0, 0), np.float32))


@dataclass(frozen=True)
class TranscribeOptions:
    """Options of transcription."""

    rule: ClipRule = field(default_factory=ClipRule)
    batch: int = 1  # chunks decoded together: more is faster, but turns appear later
    channel: int | None = None  # 0-based; None averages all
    vad: str = "silero"
    naming: Naming = "model"  # names by the model from its prompt, by voice, or none across chunks
    same_voice: float = SAME_VOICE
    guards: Guards = field(default_factory=Guards)
    context: tuple[str, ...] = ()  # terms of the prompts' line of context


class RecordingTranscriber:
    """A model with its speaker extractor and voice activity detector."""

    def __init__(
        self,
        write: Callable[[Sequence[Prompt]], list[Answer]],
        extractor: Callable[[], Extractor],
        vad: Callable[[], Vad],
        options: TranscribeOptions | None = None,
        *,
        model: str = "",
        registers: bool = True,
    ) -> None:
        """Take the parts.

        Args:
            write: prompts → answers.
            extractor: loads the extractor of the model's speaker vectors; called at its first use.
            vad: returns a fresh detector.
            model: name of the model in transcripts.
            registers: False for a model of stage 1, which only writes words.
        """
        self.options = options or TranscribeOptions()
        self.model, self.registers = model, registers
        self.write, self._load_extractor, self._vad = write, extractor, vad

    @cached_property
    def extractor(self) -> Extractor:
        """The speaker model, loaded at the first use."""
        return self._load_extractor()

    def enrol(self, clips: Iterable[tuple[str, str | Path]]) -> Enrolled:
        """Enrol people from (name, audio file); see :func:`pipeline.transcribe.enrolment.enrol`."""
        listed = [(name, Path(path)) for name, path in clips]
        self.check_enrolment(bool(listed))
        return NO_ENROLMENT if not listed else enrol(listed, self.extractor, self._vad, self.options.same_voice)

    def check_enrolment(self, wanted: bool) -> None:
        """Raise ConfigError if people are to be enrolled, and the model or the options name no one."""
        if wanted and not self.registers:
            raise ConfigError(f"{self.model} is of stage 1, which writes words but no names: remove the enrolments")
        if wanted and self.options.naming == "none":
            raise ConfigError("people are enrolled, but naming is 'none': choose another naming, or enrol no one")

    def transcribe(
        self,
        audio: str | Path | Sound,
        people: Enrolled | Iterable[tuple[str, str | Path]] = (),
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
        self, audio: str | Path | Sound, people: Enrolled | Iterable[tuple[str, str | Path]] = ()
    ) -> Iterator[Transcript]:
        """Yield the transcript after every batch of chunks, and again at the end; raises as :meth:`transcribe`."""
        people = people if isinstance(people, Enrolled) else self.enrol(people)
        notes: list[str] = []
        source = audio if isinstance(audio, Sound) else Path(audio)
        yield from self.stream_blocks(blocks(source, self.options.channel, notes.append), people, str(audio), notes)

    def stream_blocks(
        self, coming: Iterable[np.ndarray], people: Enrolled, name: str | Path = "", notes: list[str] | None = None
    ) -> Iterator[Transcript]:
        """Yield the transcript of a stream of audio as :meth:`stream` does, with the same chunks and names.

        Args:
            coming: blocks (n,) float32 at 16 kHz.
            name: of the recording in the transcript.
            notes: warnings that reading adds to; they are the transcript's.
        """
        notes = [] if notes is None else notes
        notes[:0] = people.warnings
        transcript = Transcript(str(name), self.model, people.names, warnings=notes)
        linker = SpeakerLinker(self.options.same_voice)
        linker.enrol(people.names, people.vectors)
        chunker = Chunker(self._vad(), self.options.rule)

        def read(chunks: Sequence[Chunk]) -> list[ChunkResult]:
            answers = self.write([self.prompt_for(c, people) for c in chunks])
            return [self._result(c, answer, people, linker) for c, answer in zip(chunks, answers, strict=True)]

        yield from stream(transcript, chunker, coming, self.options.batch, read)

    def prompt_for(self, chunk: Chunk, people: Enrolled) -> Prompt:
        """Build the prompt of a chunk; enrolled people are registered in it if the model names them."""
        context = self.options.context
        if not self.registers:
            return Prompt(tuple(prompt_pieces(Mode.ASR, (), context)), chunk.wave)
        if people.names and self.options.naming == "model":
            return Prompt(tuple(prompt_pieces(Mode.OVER, people.names, context)), chunk.wave, people.vectors)
        return Prompt(tuple(prompt_pieces(Mode.NO, (), context)), chunk.wave)

    def _result(self, chunk: Chunk, answer: Answer, people: Enrolled, linker: SpeakerLinker) -> ChunkResult:
        text, notes = readable(answer)
        if not self.registers:
            turns = [ParsedTurn(None, text.strip(), text)] if text.strip() else []
        else:
            parsed = parse(text, people.names if self.options.naming == "model" else ())
            turns = [t for t in parsed.turns if t.text]
            notes += parsed.notes
        named, similar, times = self._who_and_when(chunk, turns, people, linker)
        return ChunkResult(
            chunk.number,
            round(chunk.start, 3),
            round(chunk.end, 3),
            answer.text,
            answer.stop,
            tuple(
                TranscriptTurn(
                    None if t.speaker is None else named.get(t.speaker, t.speaker),
                    round(chunk.start + a, 3),
                    round(chunk.start + b, 3),
                    t.text,
                    chunk.number,
                    t.speaker,
                    similar.get(t.speaker or ""),
                )
                for t, (a, b) in zip(turns, times, strict=True)
            ),
            notes,
        )

    def _who_and_when(
        self, chunk: Chunk, turns: Sequence[ParsedTurn], people: Enrolled, linker: SpeakerLinker
    ) -> tuple[dict[str, str], dict[str, float], list[tuple[float, float]]]:
        """Return the model's labels → names, cosines of labels named by voice, and times of turns."""
        labels = [t.speaker or "" for t in turns]
        lengths = [len("".join(t.text.split())) for t in turns]
        if self.options.naming == "none" or not self.registers:
            names = {label: f"chunk {chunk.number + 1} {label}" for label in labels if label}
            return names, {}, proportional(lengths, chunk.speech)
        known = {n: v for n, v in zip(people.names, people.vectors, strict=True) if n in labels}
        if set(labels) <= {*known, ""} and len(set(labels)) <= 1:  # one speaker, whose name is known
            return {n: n for n in known}, {}, proportional(lengths, chunk.speech)
        places, vectors = windows(chunk.wave, chunk.speech, self.extractor)
        aligned = align(labels, lengths, chunk.speech, places, vectors, known)
        unknown = {x: v for x, v in aligned.voices.items() if x and x not in known}
        linked = linker.link(unknown, taken=tuple(known))
        names = {n: n for n in known} | {x: name for x, (name, _) in linked.items()}
        for label in labels:  # a label without a window
            if label and label not in names:
                names[label] = f"chunk {chunk.number + 1} {label}"
        return names, {x: round(c, 3) for x, (_, c) in linked.items()}, aligned.times
