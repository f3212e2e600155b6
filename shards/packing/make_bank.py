"""Make a dataset's speaker bank: one vector per speaker with enrolment speech."""

from __future__ import annotations

from typing import Any

import numpy as np

from shards.dataset.speaker_bank import TABLE, VECTORS, write_bank
from shards.errors import SpeakerError
from shards.storage.interface import Storage
from shards.voices.enrolment import CLIPS_PER_SPEAKER, Clip, Enroller, Features
from shards.workers import progress

SPEAKERS_AT_ONCE = 128


def build_bank(
    enroller: Enroller,
    storage: Storage,
    table_file: str = TABLE,
    vector_file: str = VECTORS,
    *,
    batched: bool = False,
    features: Features | None = None,
    max_bad_share: float = 0.01,
    inputs: dict[str, Any] | None = None,
) -> list[dict[str, str]]:
    """Write ``speakers.npy`` and ``speakers.parquet`` (last) for all speakers with enrolment speech.

    Returns the skipped clips, and the speakers skipped because all their clips are unusable: file, key, reason.

    Args:
        batched: embed the clips of many speakers together, for an accelerator.
        features: reads the clips of a batch; None reads them in this process.
        max_bad_share: share of the speakers that may be skipped; one always may.
        inputs: what the bank is made from, for :func:`shards.dataset.speaker_bank.read_bank_inputs`.

    Raises:
        SpeakerError: no speaker, or too few, can be enrolled. Nothing is written.
    """
    sessions = enroller.sessions()
    rows: list[dict[str, Any]] = []
    vectors: list[np.ndarray] = []
    speakers = enroller.heard()
    skipped: list[dict[str, str]] = []
    allowed = max(1, int(max_bad_share * len(speakers)))
    enroller.take_skipped()  # what is listed from here on belongs to the bank
    for number, speaker in enumerate(progress(speakers, "speaker bank", unit="speaker")):
        if batched and number % SPEAKERS_AT_ONCE == 0:
            some = speakers[number : number + SPEAKERS_AT_ONCE]
            enroller.prepare_clips((c for s in some for c in enroller.clips(s)[:CLIPS_PER_SPEAKER]), features)
        clips = enroller.usable(enroller.clips(speaker), CLIPS_PER_SPEAKER)
        if clips:
            vectors.append(enroller.mean(clips))
            rows.append(_row(enroller, speaker, sessions[speaker], clips))
            continue
        reason = f"{speaker} is not in {table_file}: all its enrolment clips are unusable"
        skipped.append({"file": enroller.clips(speaker)[0][0].audio, "key": speaker, "reason": reason})
        if len(skipped) > allowed:
            raise SpeakerError(
                f"{len(skipped)} of {len(speakers)} speakers have no usable enrolment clip, {allowed} are allowed: "
                f"{speaker}: {enroller.take_skipped()[-1]['reason']}; fix the audio or raise --max-bad-share, and run "
                "again: finished shards are kept"
            )
    if not rows:
        reasons = "; ".join(s["reason"] for s in enroller.take_skipped()[:3]) or "no speech of a single speaker"
        raise SpeakerError(f"no speaker can be enrolled from the enrolment manifests: {reasons}; set others by --enrol")
    extractor = (enroller.extractor.id, enroller.extractor.sha256)
    write_bank(storage, rows, vectors, extractor, table_file=table_file, vector_file=vector_file, inputs=inputs)
    return enroller.take_skipped() + skipped


def _row(enroller: Enroller, speaker: str, sessions: list[str], clips: list[Clip]) -> dict[str, Any]:
    info = enroller.speakers.get(speaker)
    return {
        "speaker": speaker,
        "corpus": info.corpus if info else speaker.partition(":")[0],
        "language": info.language if info else "und",
        "gender": info.gender if info else None,
        "person": info.person if info else None,
        "sessions": sessions,
        "num_clips": len(clips),
        "seconds": sum(piece.seconds for clip in clips for piece in clip),
    }
