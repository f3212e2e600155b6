"""Speaker metrics: DER, speaker-count accuracy, and use of names.

- **DER**: missed, false and confused speech time over reference speech time, by pyannote.metrics; only for sessions in
  which every segment of both sides has times.
- **Speaker-count accuracy**: share of sessions whose hypothesis has as many speakers (with text) as the reference.
- **Names**, of hypothesis turns with text: *absent* carry the name of a registered speaker who does not speak here,
  *generic* a label ``spkN`` although names were registered (No-Regist's labels leaking), *unknown* a name that was not
  registered, *unattributed* none. Without a registration only *unattributed* is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.evaluation.parse import is_generic
from pipeline.evaluation.records import SegLstRow, SessionTranscript


@dataclass(frozen=True, slots=True)
class NameUse:
    """Hypothesis turns by kind of label; adds up."""

    turns: int = 0
    absent: int = 0
    generic: int = 0
    unknown: int = 0
    unattributed: int = 0

    def __add__(self, other: NameUse) -> NameUse:
        return NameUse(
            self.turns + other.turns,
            self.absent + other.absent,
            self.generic + other.generic,
            self.unknown + other.unknown,
            self.unattributed + other.unattributed,
        )

    def percent(self, kind: str) -> float | None:
        """Percent of turns; ``None`` without turns."""
        return 100 * getattr(self, kind) / self.turns if self.turns else None


@dataclass(frozen=True, slots=True)
class SpeechTime:
    """Seconds of diarisation error; adds up."""

    missed: float = 0.0
    false_alarm: float = 0.0
    confusion: float = 0.0
    reference: float = 0.0

    def __add__(self, other: SpeechTime) -> SpeechTime:
        return SpeechTime(
            self.missed + other.missed,
            self.false_alarm + other.false_alarm,
            self.confusion + other.confusion,
            self.reference + other.reference,
        )

    @property
    def percent(self) -> float | None:
        """DER in percent; ``None`` without reference speech."""
        error = self.missed + self.false_alarm + self.confusion
        return 100 * error / self.reference if self.reference else None


@dataclass(frozen=True, slots=True)
class SpeakerScores:
    """Sums over sessions."""

    sessions: int
    count_right: int
    names: NameUse
    der: SpeechTime | None
    registered: bool  # whether any session had a registration: without one no name can be absent, leaked or unknown

    @property
    def count_accuracy(self) -> float | None:
        """Percent."""
        return 100 * self.count_right / self.sessions if self.sessions else None


def score_speakers(sessions: Sequence[SessionTranscript], collar: float = 0.0) -> SpeakerScores:
    """Compute all figures of this module; DER only if every session has times on both sides."""
    timed = bool(sessions) and all(has_times(s) for s in sessions)
    return SpeakerScores(
        sessions=len(sessions),
        count_right=sum(len(_voices(s.reference)) == len(_voices(s.hypothesis)) for s in sessions),
        names=sum((name_use(s) for s in sessions), NameUse()),
        der=sum((diarisation(s, collar) for s in sessions), SpeechTime()) if timed else None,
        registered=any(s.names is not None for s in sessions),
    )


def name_use(session: SessionTranscript) -> NameUse:
    """Count the labels of one session's hypothesis turns."""
    present = _voices(session.reference)
    turns = [s for s in session.hypothesis if s.text.strip()]
    absent = generic = unknown = unattributed = 0
    for s in turns:
        if s.speaker is None:
            unattributed += 1
        elif session.names is None or s.speaker in present:
            continue
        elif s.speaker in session.names:
            absent += 1
        elif is_generic(s.speaker):
            generic += 1
        else:
            unknown += 1
    return NameUse(len(turns), absent, generic, unknown, unattributed)


def has_times(session: SessionTranscript) -> bool:
    """Whether DER is defined: times on every segment with text, and a reference."""
    return bool(session.reference) and all(
        s.timed and s.speaker is not None
        for s in (*session.reference, *session.hypothesis)
        if s.text.strip() or s.timed
    )


def diarisation(session: SessionTranscript, collar: float = 0.0) -> SpeechTime:
    """Compute the diarisation error of one session with pyannote.metrics.

    ``collar`` is the forgiveness on *each* side of a reference boundary, as in NIST's md-eval and M2MeT (0.25);
    pyannote's own argument is the sum of both sides. Overlapped speech is scored.
    """
    from pyannote.core import Segment as Stretch
    from pyannote.core import Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    reference, hypothesis = _annotation(session.reference), _annotation(session.hypothesis)
    ends = [s.end for s in (*session.reference, *session.hypothesis) if s.end is not None]
    whole = Timeline([Stretch(0.0, max(ends, default=0.0))])
    metric = DiarizationErrorRate(collar=2 * collar, skip_overlap=False)
    parts = metric(reference, hypothesis, uem=whole, detailed=True)
    return SpeechTime(parts["missed detection"], parts["false alarm"], parts["confusion"], parts["total"])


def _annotation(segments: Iterable[SegLstRow]) -> object:
    """Convert rows to a pyannote annotation; overlapping turns of one speaker are merged."""
    from pyannote.core import Annotation
    from pyannote.core import Segment as Stretch

    made = Annotation()
    for i, s in enumerate(segments):
        if s.start is not None and s.end is not None and s.end > s.start:
            made[Stretch(s.start, s.end), i] = s.speaker
    return made.support()


def _voices(segments: Iterable[SegLstRow]) -> set[str]:
    """Return speakers with words, or with times if there are no words (RTTM)."""
    listed = list(segments)
    worded = any(s.text.strip() for s in listed)
    return {s.speaker for s in listed if s.speaker is not None and (s.text.strip() if worded else s.timed)}
