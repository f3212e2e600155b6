"""The transcriber of a model on disk.

transcriber = Transcriber.load("exp/stage4")
transcript = transcriber.transcribe("meeting.wav", [("Mike", "mike.wav"), ("Lucy", "lucy.wav")])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

from pipeline.decode.engine import answer
from pipeline.decode.generate import Answer, choose_device
from pipeline.decode.load_engine import Loaded, load_engine
from pipeline.prompts import Prompt
from pipeline.transcribe.load_vad import load_vad
from pipeline.transcribe.recording_transcriber import RecordingTranscriber, TranscribeOptions
from pipeline.transcribe.vad import Vad
from shards.voices.by_identity import extractor_for
from shards.voices.extractors import Extractor


class Transcriber(RecordingTranscriber):
    """Transcribes recordings with a finished run or an exported model."""

    def __init__(
        self,
        write: Callable[[Sequence[Prompt]], list[Answer]],
        extractor: Callable[[], Extractor],
        options: TranscribeOptions | None = None,
        *,
        model: str = "",
        registers: bool = True,
        cache: Path | None = None,
        vad: Callable[[], Vad] | None = None,
    ) -> None:
        """Use :meth:`load` for a model on disk.

        Args:
            write: prompts → answers.
            extractor: loads the extractor of the model's speaker vectors; called at its first use.
            model: name of the model in transcripts.
            registers: False for a model of stage 1, which only writes words.
            cache: folder for weights from packages.
            vad: returns a fresh detector; None: that of the options.
        """
        chosen = options or TranscribeOptions()
        self.cache = cache
        detector = vad or (lambda: load_vad(chosen.vad, cache))
        super().__init__(write, extractor, detector, chosen, model=model, registers=registers)

    @classmethod
    def load(
        cls,
        model: str | Path,
        options: TranscribeOptions | None = None,
        device: str = "auto",
        cache: Path | None = None,
        extractor: str | None = None,
        engine: str = "transformers",
        quantize: str | None = None,
    ) -> Transcriber:
        """Load a finished run or an exported model.

        Args:
            model: folder of a run, or one that ``from_pretrained`` reads.
            device: ``auto``, ``cpu``, ``cuda`` …
            extractor: ``NAME@SOURCE`` if the model's extractor is not found by its id.
            engine: of ``pipeline.decode.engine.ENGINES``.
            quantize: of ``pipeline.decode.engine.QUANTIZE``; None: the weights as they are.

        Raises:
            ModelError, ConfigError, CheckpointError: the folder cannot be used.
        """
        options = options or TranscribeOptions()
        loaded = load_engine(Path(model), choose_device(device), engine, options.guards, quantize=quantize)
        return cls.of(loaded, options, model=str(model), device=device, cache=cache, extractor=extractor)

    @classmethod
    def of(
        cls,
        loaded: Loaded,
        options: TranscribeOptions,
        *,
        model: str,
        device: str = "auto",
        cache: Path | None = None,
        extractor: str | None = None,
    ) -> Transcriber:
        """Take a loaded engine; threads that ask it wait for each other. Else as :meth:`load`."""
        lock = Lock()  # a page that was stopped may end its chunk while the next one begins

        def write(prompts: Sequence[Prompt]) -> list[Answer]:
            with lock:
                return answer(loaded.engine, prompts)

        return cls(
            write,
            lambda: extractor_for(loaded.extractor, choose_device(device), cache, extractor),
            options,
            model=model,
            registers=loaded.registers,
            cache=cache,
        )
