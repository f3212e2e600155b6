"""SpeakerLM as an exported folder gives it: the model transcribes recordings, the processor enrols speakers.

    vector = processor.enrol("mike.wav")
    transcript = model.transcribe("meeting.wav", enrol={"Mike": vector, "Lucy": "lucy.wav"}, processor=processor)

Both do what ``speakerlm-transcribe`` does, with its code: a recording may be of any length. ``auto_map`` of an exported
folder names these classes; inside the project :mod:`pipeline.transcribe.transcriber` is the same for models on disk.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration as Model
from pipeline.model.optional_packages import AUDIO, require_packages
from pipeline.model.processing_speakerlm import SpeakerLMProcessor as Processor
from pipeline.prompts import Prompt, PromptTokenizer, context_pieces
from pipeline.transcribe.speaker_vector import SUFFIX, SpeakerVector, check_origin
from shards.errors import ConfigError, SpeakerError

if TYPE_CHECKING:
    from pipeline.transcribe.audio_stream import Sound
    from pipeline.transcribe.enrolment import Enrolled
    from pipeline.transcribe.transcript import Transcript
    from shards.voices.network_extractor import NetworkExtractor

HUB = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")

logger = logging.getLogger(__name__)


class SpeakerLMProcessor(Processor):
    """Prompts, and vectors of people."""

    _source = ""  # folder or hub id that it was loaded from
    _hub: Mapping[str, Any] = {}
    _extractor: NetworkExtractor | None = None
    _weights: Path | None = None  # of the extractor, if they were given

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers'; the origin is kept, for the files that enrolment needs."""
        found = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        found._source = str(pretrained_model_name_or_path)
        found._hub = {name: kwargs[name] for name in HUB if name in kwargs}
        return found

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers', with the files that enrolment needs."""
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        if self._source:
            for name in (self.enrolment[k] for k in ("weights", "vad") if self.enrolment.get(k)):
                found, target = self._find(name), Path(save_directory) / name
                if not (target.exists() and target.samefile(found)):
                    shutil.copyfile(found, target)
        return saved

    def enrol(
        self,
        clips: Any,
        sampling_rate: int | None = None,
        *,
        vad: str = "silero",
        weights: str | Path | None = None,
        device: str = "cpu",
    ) -> SpeakerVector:
        """Return the vector of one person; what is doubtful about the clips is logged and kept in ``warnings``.

        The speech in the clips is cut into pieces of 2–10 s; the vector is the unit-normalised mean of theirs.

        Args:
            clips: an audio file, samples (n,) or (n, channels), or a list of such. 2–10 s of one voice are best.
            sampling_rate: of samples, in Hz.
            vad: the detector of speech: ``silero`` or ``energy``.
            weights: the extractor's weight file, if the folder does not carry it.

        Raises:
            AudioError: a clip cannot be read, or the rate of samples is missing.
            SpeakerError: a clip holds no speech, or the weights are not those that the model was trained with.
            ConfigError: a package is missing, or the folder carries no extractor.
        """
        from pipeline.transcribe.carried import require_enrolment

        require_enrolment(self.enrolment)
        from pipeline.transcribe.enrolment import enrol

        several = isinstance(clips, (list, tuple)) and not (clips and np.ndim(clips[0]) == 0 and _is_number(clips[0]))
        given = list(clips) if several else [clips]
        if not given:
            raise SpeakerError("no clip is given to enrol a speaker from")
        sources = [_source(c, sampling_rate, f"clip {i + 1} of {len(given)}") for i, c in enumerate(given)]
        extractor = self.speaker_model(weights, device)
        found = enrol([("the speaker", s) for s in sources], extractor, lambda: self.voice_detector(vad))
        for warning in found.warnings:
            logger.warning("%s", warning)
        return SpeakerVector(found.vectors[0], extractor.id, extractor.sha256, found.warnings)

    def speaker_model(self, weights: str | Path | None = None, device: str = "cpu") -> NetworkExtractor:
        """Load the speaker extractor at its first use; raises as :meth:`enrol`."""
        if self._extractor is None or weights is not None or self._extractor.device != device:
            from pipeline.transcribe.carried import speaker_model

            path = Path(weights) if weights is not None else self._weights
            self._extractor = speaker_model(self.extractor, self.enrolment, self._find, path, device)
            self._weights = path
        return self._extractor

    def voice_detector(self, name: str = "silero") -> Any:
        """Return a fresh detector of speech."""
        from pipeline.transcribe.carried import voice_detector

        return voice_detector(name, self.enrolment, self._find)

    def check_vector(self, name: str, vector: Any) -> None:
        """Raise SpeakerError for a vector that another extractor made."""
        check_origin(name, vector, self.extractor, self.enrolment.get("sha256") or "")

    def _prompt(
        self, wave: Any, registered: Mapping[str, Any], mode: str | None, context: Sequence[str] = ()
    ) -> Prompt:
        for name, vector in registered.items():
            self.check_vector(name, vector)
        return super()._prompt(wave, registered, mode, context)

    def _find(self, name: str) -> Path:
        from transformers.utils import cached_file

        try:
            return Path(str(cached_file(self._source, name, **self._hub)))
        except OSError as e:
            where = self._source or "a processor that was not loaded by from_pretrained"
            raise ConfigError(f"{where} lacks {name}, which enrolment needs: {e}") from e


class SpeakerLMForConditionalGeneration(Model):
    """The model, which also transcribes recordings."""

    def transcribe(
        self,
        audio: Any,
        enrol: Mapping[str, Any] | None = None,
        *,
        processor: SpeakerLMProcessor,
        sampling_rate: int | None = None,
        seconds: tuple[float, float] = (40.0, 50.0),
        batch: int = 4,
        channel: int | None = None,
        vad: str = "silero",
        naming: Literal["model", "voice", "none"] = "model",
        context: Sequence[str] = (),
    ) -> Transcript:
        """Transcribe a recording of any length: ``turns`` with speaker, text, start and end (estimated, in seconds).

        Args:
            audio: an audio file, or samples (n,) or (n, channels).
            enrol: who may be named: name → audio file, samples, a list of such, or a vector: of
                ``processor.enrol``, the ``.npz`` file that its ``save`` wrote, or an array (dim,).
            processor: of the same folder.
            sampling_rate: of samples, in Hz.
            seconds: length of the chunks that the model hears at a time; best as in training.
            batch: chunks decoded together.
            channel: 0-based; None averages all.
            vad: the detector of speech: ``silero`` or ``energy``.
            naming: who names speakers: the ``model`` from its prompt (others by voice), or all by ``voice``;
                ``none``: labels hold within a chunk, no speaker extractor is used.
            context: names and terms that may be said, for a model that was trained with them.

        Raises:
            AudioError: nothing can be read; after a fault in the middle, ``error`` is set and earlier turns are kept.
            SpeakerError: a clip without speech, or a vector of another extractor.
            ConfigError: names or settings that cannot be used, a missing package.
            ModelError: the context is a text, not a list.
        """
        require_packages(AUDIO, "transcribing")
        from pipeline.decode.generate import ask
        from pipeline.transcribe.recording_transcriber import RecordingTranscriber, TranscribeOptions
        from shards.manifests.clip_rule import rule_of

        self._check_transcribes(context)
        device = str(self.device)
        options = TranscribeOptions(rule_of(*seconds), batch, channel, vad, naming, context=tuple(context))
        tokenizer = PromptTokenizer(processor.tokenizer, processor.system)
        transcriber = RecordingTranscriber(
            lambda prompts: ask(self, tokenizer, prompts, options.guards),
            lambda: processor.speaker_model(device=device),
            lambda: processor.voice_detector(vad),
            options,
            model=str(self.name_or_path),
            registers=self.config.registration,
        )
        was_training = self.training
        try:
            people = self._people(enrol or {}, transcriber, processor, sampling_rate, device)
            return transcriber.transcribe(_source(audio, sampling_rate, "the recording"), people)
        finally:
            self.train(was_training)

    def _check_transcribes(self, context: Sequence[str]) -> None:
        """Raise an error if the model answers in dialogues, or cannot read the context."""
        if getattr(self.config, "dialogue", None):
            raise ConfigError("this model was trained on dialogues: use speakerlm-transcribe --reasoner")
        if context and not self.config.context:
            raise ConfigError("this model was not trained with a line of context: leave context out")
        context_pieces(context)  # refuses a text in place of a list

    def _people(
        self, enrol: Mapping[str, Any], transcriber: Any, processor: SpeakerLMProcessor, rate: int | None, device: str
    ) -> Enrolled:
        """Return names and vectors; clips are enrolled."""
        from pipeline.transcribe.enrolment import Enrolled, alike, check_name

        if not isinstance(enrol, Mapping):
            given = type(enrol).__name__
            raise ConfigError(f"enrol is a mapping of names, such as {{'Mike': 'mike.wav'}}, not a {given}")
        transcriber.check_enrolment(bool(enrol))
        vectors, warnings = [], []
        for name, given in enrol.items():
            check_name(name)
            vector = _vector(given, self.config.speaker_dim)
            if vector is None:
                vector = processor.enrol(given, rate, vad=transcriber.options.vad, device=device)
            processor.check_vector(name, vector)
            warnings += [f"{name}: {w}" for w in getattr(vector, "warnings", ())]
            vectors.append(np.asarray(vector, np.float32))
        if wrong := [n for n, v in zip(enrol, vectors, strict=True) if v.shape != (self.config.speaker_dim,)]:
            raise SpeakerError(f"{wrong[0]}: a speaker vector of this model has {self.config.speaker_dim} numbers")
        rows = np.stack(vectors) if vectors else np.zeros((0, self.config.speaker_dim), np.float32)
        warnings += alike(tuple(enrol), rows, transcriber.options.same_voice)
        return Enrolled(tuple(enrol), rows, tuple(warnings))


def _source(audio: Any, rate: int | None, label: str) -> Path | Sound:
    """Return a path, or samples as audio in memory."""
    from pipeline.transcribe.audio_stream import sound

    return Path(audio) if isinstance(audio, (str, Path)) else sound(audio, rate, label)


def _vector(given: Any, dim: int) -> Any:
    """Return what was given if it is a vector; None if it is audio."""
    if isinstance(given, (str, Path)):
        return SpeakerVector.load(given) if Path(given).suffix == SUFFIX else None
    if hasattr(given, "extractor") or np.shape(given) == (dim,):
        return given
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number))
