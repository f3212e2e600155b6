"""The model behind the API: requests become jobs in threads, their chunks wait together before one engine."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.decode.engine import Engine
from pipeline.decode.generate import Answer
from pipeline.decode.requests import Requests
from pipeline.prompts import Prompt
from pipeline.serve.errors import ApiError, busy, invalid, public, stopping
from pipeline.serve.jobs import Job
from pipeline.serve.limits import MIB, Limits
from pipeline.serve.live_audio import LiveAudio
from pipeline.serve.metrics import Metrics
from pipeline.serve.people import KnownVoice, PeopleFolder
from pipeline.serve.request import TranscriptionRequest, decode_reference, no_names
from pipeline.transcribe.audio_stream import blocks, seconds_of
from pipeline.transcribe.enrolment import Enrolled
from pipeline.transcribe.load_vad import load_vad
from pipeline.transcribe.recording_transcriber import NO_ENROLMENT
from pipeline.transcribe.transcriber import Transcriber
from pipeline.transcribe.transcript import Transcript
from pipeline.transcribe.vad import Vad
from shards.errors import AudioError
from shards.sample import SAMPLE_RATE
from shards.voices.extractors import Extractor

SPARE_BYTES = 256 * MIB  # of the spool folder's disk that uploads leave free
READY = "ready"  # first event of a job: its audio is whole, its people are enrolled


class Service:
    """One model, the people it knows, and the requests that are being answered."""

    def __init__(
        self,
        transcriber: Transcriber,
        engine: Engine,
        names: Sequence[str],
        spool: Path,
        limits: Limits | None = None,
        people: PeopleFolder | None = None,
        batch: int = 8,
        reads_context: bool = False,
    ) -> None:
        """Start the threads.

        Args:
            transcriber: the model's extractor, detector and options; it is not asked itself.
            engine: the model; closed with the service.
            names: under which it is served; the first is its own.
            spool: folder for uploads.
            people: enrolled on the server; None: no one can be.
            batch: chunks that are decoded together.
            reads_context: the model was trained with a line of context.
        """
        self.reads_context, self.context = reads_context, transcriber.options.context
        self.limits = limits or Limits()
        self.names, self.spool, self.people, self.batch = tuple(names), spool, people, batch
        self.registers = transcriber.registers
        self.draining = threading.Event()
        self._base = transcriber
        self._lock = threading.Lock()
        self._active = self._live = 0
        self._jobs: set[Job] = set()  # of both kinds
        self._typical = 5.0  # seconds of a request, a moving average: what Retry-After is made of
        self._local = threading.local()
        self._extractor_lock = threading.Lock()
        self.metrics = Metrics(lambda: self._active, lambda: self.requests.waiting, lambda: self._live)
        self.requests = Requests(engine, batch, batch, self.metrics.batch)
        self._threads = ThreadPoolExecutor(self.limits.running, "request", initializer=_one_core)
        self._live_threads = ThreadPoolExecutor(self.limits.live, "live", initializer=_one_core)

    # ------------------------------------------------------------------------------------------------------- admission

    @property
    def active(self) -> int:
        """Requests in the server, live sessions included."""
        return self._active + self._live

    def admit(self, length: int | None = None) -> Job:
        """Take a request in; :meth:`Job.release` gives its place back.

        Args:
            length: bytes of its body, if it says so.

        Raises:
            ApiError: the server is full, stopping, or its disk is.
        """
        self._check_open()
        if shutil.disk_usage(self.spool).free < (length or 0) + SPARE_BYTES:
            raise ApiError(503, "no space for the upload on the server's disk; try again", "no_space", retry_after=60)
        with self._lock:
            if self._active >= self.limits.requests:
                wait = self._typical * self._active / self.limits.running
                message = f"{self._active} requests are in the server, as many as it takes; try again"
                raise busy(message, max(1, min(60, round(wait))))
            job = Job(self.limits.request_seconds, self.spool, self._leave)
            self._active += 1
            self._jobs.add(job)
        return job

    def admit_live(self) -> Job:
        """Take a live session in; see :meth:`admit`."""
        self._check_open()
        with self._lock:
            if self._live >= self.limits.live:
                raise busy(f"{self._live} live sessions are open, as many as the server takes; try again", 30)
            job = Job(self.limits.hours * 3600, self.spool, self._leave_live)
            self._live += 1
            self._jobs.add(job)
        return job

    def _check_open(self) -> None:
        if self.draining.is_set():
            raise stopping()

    def _leave(self, job: Job) -> None:
        with self._lock:
            self._active -= 1
            self._jobs.discard(job)

    def _leave_live(self, job: Job) -> None:
        with self._lock:
            self._live -= 1
            self._jobs.discard(job)

    def give_up(self) -> None:
        """End the requests and sessions that are left with an error; called in the event loop."""
        with self._lock:
            left = list(self._jobs)
        for job in left:
            job.stop()

    def took(self, seconds: float) -> None:
        """Note the wall time of a transcription."""
        self._typical = 0.9 * self._typical + 0.1 * seconds

    @property
    def healthy(self) -> bool:
        """Whether requests are taken and the model answers."""
        return self.requests.alive and not self.draining.is_set()

    def close(self) -> None:
        """Stop the threads."""
        self.draining.set()
        self.requests.close()
        for threads in (self._threads, self._live_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------------------------------------------------ work

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Run work in one of the request threads, when one is free."""
        return self._threads.submit(work)

    def submit_live(self, work: Callable[[], Any]) -> Future[Any]:
        """Run a live session in a thread of its own."""
        return self._live_threads.submit(work)

    def transcribe(self, job: Job, request: TranscriptionRequest) -> Transcript:
        """Transcribe an upload; the work of a job's thread. Emits READY, then the transcript after every batch.

        Raises:
            AudioError: the upload is damaged or too long; found before the model is asked.
            SpeakerLMError, ApiError: it cannot be transcribed.
        """
        job.check()
        job.names[request.audio] = "file"
        self._check_whole(job, request.audio)
        people = self.known(job, request.names, request.references)
        notes = list(request.warnings)
        coming = blocks(request.audio, self._base.options.channel, notes.append)
        batch = 1 if request.stream else self.batch
        return self._stream(job, coming, people, batch, request.audio, notes, request.context)

    def live(
        self,
        job: Job,
        audio: LiveAudio,
        names: Sequence[str],
        references: Sequence[Path],
        context: Sequence[str] = (),
    ) -> Transcript:
        """Transcribe a live session until its audio ends; else as :meth:`transcribe`."""
        people = self.known(job, names, references)
        return self._stream(job, audio.blocks(self.live_block_seconds()), people, 1, context=context)

    def _stream(
        self,
        job: Job,
        coming: Iterable[np.ndarray],
        people: Enrolled,
        batch: int,
        name: str | Path = "",
        notes: Any = None,
        context: Sequence[str] = (),
    ) -> Transcript:
        job.emit(READY)
        transcriber = self.transcriber(job, batch, context)
        for found in transcriber.stream_blocks(job.checked(coming), people, name, notes):
            transcript = found
            job.emit(replace(transcript, chunks=list(transcript.chunks)))
        if transcript.error:
            raise AudioError(transcript.error)
        self.metrics.audio.inc(transcript.seconds)
        return replace(transcript, warnings=[public(w, job.names) for w in transcript.warnings])

    def transcriber(self, job: Job, batch: int, context: Sequence[str] = ()) -> Transcriber:
        """Return a transcriber of one job: its chunks wait with those of others, and end with it.

        Args:
            context: all terms of its prompts.
        """

        def write(prompts: Sequence[Prompt]) -> list[Answer]:
            return self.requests.ask(prompts, job.check)

        base = self._base
        options = replace(base.options, batch=batch, context=tuple(context))
        return Transcriber(
            write, self.extractor, options, model=base.model, registers=base.registers, cache=base.cache, vad=self._vad
        )

    def _check_whole(self, job: Job, path: Path) -> None:
        """Decode an upload to its end: damage is found before any of it is transcribed.

        Raises:
            AudioError: damaged, or longer than the limit.
        """
        most = self.limits.hours * 3600
        stated, read = seconds_of(path) or 0.0, 0
        if stated <= most:
            for block in job.checked(blocks(path, self._base.options.channel)):
                read += len(block)
                if read > most * SAMPLE_RATE:
                    break
        if max(stated, read / SAMPLE_RATE) > most:
            raise invalid(f"file is longer than {self.limits.hours:g} hours of audio; send parts", "file", "too_long")

    def known(self, job: Job, names: Sequence[str], references: Sequence[Path]) -> Enrolled:
        """Return the people of a request: by references, by names that are enrolled, or all who are enrolled.

        Raises:
            SpeakerError, AudioError, ApiError: a reference cannot be used, or a name is not enrolled.
        """
        if not references:
            if self.people is None or not self.registers:
                if names:
                    raise invalid("the server has no enrolled people: send known_speaker_references[]",
                                  "known_speaker_references")  # fmt: skip
                return NO_ENROLMENT
            return self.people.enrolled(list(names) or None)
        for i, path in enumerate(references):
            label = f"known_speaker_references[{i}]"
            path.write_bytes(decode_reference(path.read_bytes(), label, self.limits))
            job.names[path] = label
        return self.enrol(job, list(zip(names, references, strict=True)))

    def enrol(self, job: Job, clips: Iterable[tuple[str, Path]]) -> Enrolled:
        """Compute vectors of people from clips; warnings call files as the client does."""
        found = self.transcriber(job, 1).enrol(clips)
        return replace(found, warnings=tuple(public(w, job.names) for w in found.warnings))

    def put_speaker(self, job: Job, name: str, clips: Sequence[Path]) -> tuple[KnownVoice, bool, tuple[str, ...]]:
        """Enrol a person on the server; return the person, whether the name is new, and warnings."""
        people = self.folder_of_people()
        found = self.enrol(job, [(name, clip) for clip in clips])
        job.check()
        person, new = people.put(name, found.vectors[0])
        if people.keep_audio:
            people.store_audio(name, list(clips))
        return person, new, found.warnings

    def folder_of_people(self) -> PeopleFolder:
        """Return the enrolled people.

        Raises:
            ApiError: the model cannot name people, or the server has no folder for them.
        """
        if not self.registers:
            raise no_names("enrolled speakers")
        if self.people is None:
            raise ApiError(404, "the server was started without --enrol-dir: no one can be enrolled", "not_found")
        return self.people

    def extractor(self) -> Extractor:
        """Return the speaker model; one thread uses it at a time."""
        with self._extractor_lock:
            return _OneAtATime(self._base.extractor, self._extractor_lock)

    def _vad(self) -> Vad:
        """Return this thread's detector as if new: loading one takes longer than a short clip."""
        found: Vad | None = getattr(self._local, "vad", None)
        if found is None:
            found = self._local.vad = load_vad(self._base.options.vad, self._base.cache)
        found.reset()
        return found

    def live_block_seconds(self) -> float:
        """Return the length of blocks of a live session. The detector ``energy`` depends on it: a file has 10 s."""
        return 10.0 if self._base.options.vad == "energy" else 0.5


class _OneAtATime:
    """An extractor that threads share."""

    def __init__(self, extractor: Extractor, lock: threading.Lock) -> None:
        self._extractor, self._lock = extractor, lock
        self.id, self.sha256, self.dim = extractor.id, extractor.sha256, extractor.dim

    def embed(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        with self._lock:
            return self._extractor.embed(waves)

    def embed_features(self, features: Sequence[np.ndarray]) -> np.ndarray:
        with self._lock:
            return self._extractor.embed_features(features)


def _one_core() -> None:
    """Let a request's thread compute on one core: its networks are small, and the model needs the others."""
    import torch

    torch.set_num_threads(1)
