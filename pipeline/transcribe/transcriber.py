"""Transcription of a recording: a stream of chunks, each decoded, aligned in time, and its speakers named.

    transcriber = Transcriber.load("exp/stage4")
    transcript = transcriber.transcribe("meeting.wav", [("Mike", "mike.wav"), ("Lucy", "lucy.wav")])

The vectors of enrolled people are in the prompt and the model writes their names. All other speakers are named by voice
(:mod:`pipeline.transcribe.link_speakers`). Times of turns are estimates (:mod:`pipeline.transcribe.turn_times`), and
marked so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.decode.generate import Answer, Guards, ask, choose_device
from pipeline.evaluation.parse import ParsedTurn, parse
from pipeline.prompts import Mode, Prompt, prompt_pieces
from pipeline.transcribe.audio_stream import blocks
from pipeline.transcribe.chunks import Chunk, Chunker
from pipeline.transcribe.enrolment import SAME_VOICE, Enrolled, enrol, windows
from pipeline.transcribe.link_speakers import SpeakerLinker
from pipeline.transcribe.load_model import extractor_for, load_model
from pipeline.transcribe.transcript import ChunkResult, Transcript, TranscriptTurn, readable
from pipeline.transcribe.turn_times import align, proportional
from pipeline.transcribe.vad import Vad, load_vad
from shards.errors import AudioError, ConfigError, ModelError
from shards.manifests.clips import ClipRule
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


class Transcriber:
    """A model with its speaker extractor and voice activity detector."""

    def __init__(
        self,
        write: Callable[[Sequence[Prompt]], list[Answer]],
        extractor: Callable[[], Extractor],
        options: TranscribeOptions | None = None,
        *,
        model: str = "",
        registers: bool = True,
        cache: Path | None = None,
    ) -> None:
        """Use :meth:`load` for a model on disk.

        Args:
            write: prompts → answers.
            extractor: loads the extractor of the model's speaker vectors; called at its first use.
            model: name of the model in transcripts.
            registers: False for a model of stage 1, which only writes words.
            cache: folder for weights from packages.
        """
        self.options = options or TranscribeOptions()
        self.model, self.registers, self.cache = model, registers, cache
        self._write, self._load_extractor = write, extractor

    @classmethod
    def load(
        cls,
        model: str | Path,
        options: TranscribeOptions | None = None,
        device: str = "auto",
        cache: Path | None = None,
        extractor: str | None = None,
    ) -> Transcriber:
        """Load a finished run or an exported model.

        Args:
            model: folder of a run, or one that ``from_pretrained`` reads.
            device: ``auto``, ``cpu``, ``cuda`` …
            extractor: ``NAME@SOURCE`` if the model's extractor is not found by its id.

        Raises:
            ModelError, ConfigError, CheckpointError: the folder cannot be used.
        """
        options = options or TranscribeOptions()
        where = choose_device(device)
        network, tokenizer, identity, registers = load_model(Path(model), where)
        return cls(
            lambda prompts: ask(network, tokenizer, prompts, options.guards),
            lambda: extractor_for(identity, where, cache, extractor),
            options,
            model=str(model),
            registers=registers,
            cache=cache,
        )

    @cached_property
    def extractor(self) -> Extractor:
        """The speaker model, loaded at the first use."""
        return self._load_extractor()

    def enrol(self, clips: Iterable[tuple[str, str | Path]]) -> Enrolled:
        """Enrol people from (name, audio file); see :func:`pipeline.transcribe.enrolment.enrol`."""
        listed = [(name, Path(path)) for name, path in clips]
        if not listed:
            return NO_ENROLMENT
        if not self.registers:
            raise ConfigError(f"{self.model} is of stage 1, which writes words but no names: remove the enrolments")
        if self.options.naming == "none":
            raise ConfigError("people are enrolled, but naming is 'none': choose another naming, or enrol no one")
        return enrol(listed, self.extractor, self._vad, self.options.same_voice)

    def transcribe(
        self,
        audio: str | Path,
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
        self, audio: str | Path, people: Enrolled | Iterable[tuple[str, str | Path]] = ()
    ) -> Iterator[Transcript]:
        """Yield the transcript after every batch of chunks, and again at the end; raises as :meth:`transcribe`."""
        people = people if isinstance(people, Enrolled) else self.enrol(people)
        transcript = Transcript(str(audio), self.model, people.names, warnings=list(people.warnings))
        linker = SpeakerLinker(self.options.same_voice)
        linker.enrol(people.names, people.vectors)
        chunker = Chunker(self._vad(), self.options.rule)
        coming = chunker.cut(blocks(Path(audio), self.options.channel))
        fault: AudioError | ModelError | None = None
        while fault is None:
            batch: list[Chunk] = []
            try:
                for chunk in islice(coming, self.options.batch):  # chunks before an error are kept
                    batch.append(chunk)
            except AudioError as e:
                fault = e
            transcript.seconds, transcript.speech = round(chunker.heard.seconds, 3), round(chunker.heard.speech, 3)
            if not batch:
                break
            try:
                answers = self._write([self.prompt_for(c, people) for c in batch])
            except ModelError as e:  # a chunk that is too long for the LLM; those before it are kept
                if not transcript.chunks:
                    raise
                fault = e
                break
            for chunk, answer in zip(batch, answers, strict=True):
                transcript.chunks.append(self._result(chunk, answer, people, linker))
            yield transcript
        if fault is not None and transcript.seconds == 0:
            raise fault
        transcript.error = str(fault) if fault else None
        if not transcript.chunks:
            transcript.warnings.append(f"{audio}: no speech in {chunker.heard.seconds:.1f} s")
        yield transcript

    def _vad(self) -> Vad:
        return load_vad(self.options.vad, self.cache)

    def prompt_for(self, chunk: Chunk, people: Enrolled) -> Prompt:
        """Build the prompt of a chunk; enrolled people are registered in it if the model names them."""
        if not self.registers:
            return Prompt(tuple(prompt_pieces(Mode.ASR)), chunk.wave)
        if people.names and self.options.naming == "model":
            return Prompt(tuple(prompt_pieces(Mode.OVER, people.names)), chunk.wave, people.vectors)
        return Prompt(tuple(prompt_pieces(Mode.NO)), chunk.wave)

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
