"""Speaker metrics: DER, speaker-count accuracy, and use of names.

- **DER**: missed, false and confused speech time over reference speech time, by pyannote.metrics; only for sessions in
  which every segment of both sides has times.
- **Speaker-count accuracy**: share of sessions whose hypothesis has as many speakers (with text) as the reference.
- **Speaker-count error**: mean absolute difference of these numbers.
- **Names**, of hypothesis turns with text: *absent* carry the name of a registered speaker who does not speak here,
  *generic* a label ``spkN`` although names were registered (No-Regist's labels leaking), *unknown* a name that was not
  registered, *unattributed* none. Without a registration only *unattributed* is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.evaluation.metrics import Coarse
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
    coarse: bool = False  # of turns whose ends are not the system's

    def __add__(self, other: SpeechTime) -> SpeechTime:
        return SpeechTime(
            self.missed + other.missed,
            self.false_alarm + other.false_alarm,
            self.confusion + other.confusion,
            self.reference + other.reference,
            self.coarse or other.coarse,
        )

    @property
    def percent(self) -> float | None:
        """DER in percent; ``None`` without reference speech."""
        if not self.reference:
            return None
        percent = 100 * self.errors / self.reference
        return Coarse(percent) if self.coarse else percent

    @property
    def errors(self) -> float:
        """Seconds of all errors."""
        return self.missed + self.false_alarm + self.confusion


@dataclass(frozen=True, slots=True)
class SpeakerScores:
    """Sums over sessions."""

    sessions: int
    count_right: int
    count_differences: int  # sum of absolute differences
    untimed: int  # sessions without DER
    names: NameUse
    der: SpeechTime | None
    registered: bool  # whether any session had a registration: without one no name can be absent, leaked or unknown

    @property
    def count_accuracy(self) -> float | None:
        """Percent."""
        return 100 * self.count_right / self.sessions if self.sessions else None

    @property
    def count_error(self) -> float | None:
        """Speakers too many or too few, mean over sessions."""
        return self.count_differences / self.sessions if self.sessions else None


def score_speakers(sessions: Sequence[SessionTranscript], collar: float = 0.0) -> SpeakerScores:
    """Compute all figures of this module; DER only if every session has times on both sides."""
    untimed = sum(not has_times(s) for s in sessions)
    timed = bool(sessions) and not untimed
    differences = [abs(len(voices(s.reference)) - len(voices(s.hypothesis))) for s in sessions]
    return SpeakerScores(
        sessions=len(sessions),
        count_right=differences.count(0),
        count_differences=sum(differences),
        untimed=untimed,
        names=sum((name_use(s) for s in sessions), NameUse()),
        der=sum((diarisation(s, collar) for s in sessions), SpeechTime()) if timed else None,
        registered=any(s.names is not None for s in sessions),
    )


def name_use(session: SessionTranscript) -> NameUse:
    """Count the labels of one session's hypothesis turns."""
    present = voices(session.reference)
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
    """Whether DER is defined: speaker and times on every segment with text, and a reference."""
    return rows_have_times(session.reference, session.hypothesis)


def rows_have_times(reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow]) -> bool:
    """Whether DER is defined for these rows.

    Text of a hypothesis that has neither speaker nor times is no speech of anyone, if other text has them.
    """
    placed = [s for s in hypothesis if s.timed or s.speaker is not None] or hypothesis
    rows = [s for s in (*reference, *placed) if s.text.strip() or s.timed]
    return bool(reference) and all(s.timed and s.speaker is not None for s in rows)


def diarisation(session: SessionTranscript, collar: float = 0.0) -> SpeechTime:
    """Compute the diarisation error of one session with pyannote.metrics.

    ``collar`` is the forgiveness on *each* side of a reference boundary, as in NIST's md-eval and M2MeT (0.25);
    pyannote's own argument is the sum of both sides. Overlapped speech is scored.
    """
    from pyannote.metrics.diarization import DiarizationErrorRate

    reference, hypothesis = annotation(session.reference), annotation(session.hypothesis)
    whole = evaluated(session.reference, session.hypothesis)
    metric = DiarizationErrorRate(collar=2 * collar, skip_overlap=False)
    parts = metric(reference, hypothesis, uem=whole, detailed=True)
    coarse = any(s.coarse for s in session.hypothesis)
    return SpeechTime(parts["missed detection"], parts["false alarm"], parts["confusion"], parts["total"], coarse)


def evaluated(reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow]) -> object:
    """Return the stretch that is scored, as a pyannote timeline: up to the last end of either side."""
    from pyannote.core import Segment as Stretch
    from pyannote.core import Timeline

    ends = [s.end for s in (*reference, *hypothesis) if s.end is not None]
    return Timeline([Stretch(0.0, max(ends, default=0.0))])


def annotation(segments: Iterable[SegLstRow]) -> object:
    """Convert rows to a pyannote annotation; overlapping turns of one speaker are merged."""
    from pyannote.core import Annotation
    from pyannote.core import Segment as Stretch

    made = Annotation()
    for i, s in enumerate(segments):
        if s.start is not None and s.end is not None and s.end > s.start:
            made[Stretch(s.start, s.end), i] = s.speaker
    return made.support()


def voices(segments: Iterable[SegLstRow]) -> set[str]:
    """Return speakers with words, or with times if there are no words (RTTM)."""
    listed = list(segments)
    worded = any(s.text.strip() for s in listed)
    return {s.speaker for s in listed if s.speaker is not None and (s.text.strip() if worded else s.timed)}
