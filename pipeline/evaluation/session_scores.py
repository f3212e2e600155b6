"""CER, cpCER and saCER of sessions, and what else is asked for by name.

All count edits between normalised tokens (characters, or what the profile's unit is). Every figure of a set is the sum
of errors over the sum of reference tokens (micro-average), never a mean of rates. The metrics are defined in
:mod:`pipeline.evaluation.metrics`.

Text that has no speaker counts in the CER stream; in cpCER and saCER it is all insertions. Without reference tokens a
rate is undefined, and the errors still count in the sum. Δcp = cpCER − CER, Δsa = saCER − CER; either may be negative
(streams can be interleaved in an order that fits worse than the speakers do), nothing is clamped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.evaluation.edit_distance import Edits
from pipeline.evaluation.metrics import ErrorRate, Metric
from pipeline.evaluation.metrics.cer import cer_edits
from pipeline.evaluation.metrics.cpcer import SpeakerPair, cp_edits
from pipeline.evaluation.metrics.sacer import sa_edits
from pipeline.evaluation.normalize import Profile
from pipeline.evaluation.parse import is_generic
from pipeline.evaluation.records import SessionTranscript, in_time_order
from pipeline.evaluation.tokens import Tokens, streams


@dataclass(frozen=True)
class SessionScore:
    """One session's counts. ``None`` where a figure is not defined for it."""

    id: str
    group: str
    cer: Edits
    cpcer: Edits | None = None
    sacer: Edits | None = None
    assignment: tuple[SpeakerPair, ...] = ()  # of cpCER
    notes: tuple[str, ...] = ()
    metrics: Mapping[str, ErrorRate | None] = field(default_factory=dict)  # those asked for by name

    @property
    def strictest(self) -> Edits:
        """The figure by which sessions are sorted: saCER, else cpCER, else CER."""
        return self.sacer or self.cpcer or self.cer


@dataclass(frozen=True)
class Total:
    """Sums over sessions."""

    cer: Edits
    cpcer: Edits | None
    sacer: Edits | None
    sessions: int
    metrics: Mapping[str, ErrorRate | None] = field(default_factory=dict)

    @property
    def delta_cp(self) -> float | None:
        """cpCER − CER in percentage points."""
        return difference(self.cpcer, self.cer)

    @property
    def delta_sa(self) -> float | None:
        """saCER − CER in percentage points."""
        return difference(self.sacer, self.cer)


def difference(a: Edits | None, b: Edits | None) -> float | None:
    """Return ``a − b`` in percentage points, ``None`` where one of them is undefined."""
    if a is None or b is None or a.percent is None or b.percent is None:
        return None
    return a.percent - b.percent


def total(scores: Iterable[SessionScore]) -> Total:
    """Sum up. A figure that some session lacks is omitted: a sum over other sessions would not be comparable."""
    listed = list(scores)
    cp = [s.cpcer for s in listed if s.cpcer is not None]
    sa = [s.sacer for s in listed if s.sacer is not None]
    names = dict.fromkeys(name for s in listed for name in s.metrics)
    return Total(
        cer=sum((s.cer for s in listed), Edits()),
        cpcer=sum(cp, Edits()) if cp and len(cp) == len(listed) else None,
        sacer=sum(sa, Edits()) if sa and len(sa) == len(listed) else None,
        sessions=len(listed),
        metrics={name: _sum([s.metrics.get(name) for s in listed]) for name in names},
    )


def _sum(rates: Sequence[ErrorRate | None]) -> ErrorRate | None:
    defined = [r for r in rates if r is not None]
    return sum(defined[1:], defined[0]) if defined and len(defined) == len(rates) else None


def score_session(
    session: SessionTranscript,
    profile: Profile,
    speakers: bool = True,
    by_name: bool = False,
    metrics: Sequence[Metric] = (),
) -> SessionScore:
    """Score one session.

    Args:
        session: reference and hypothesis.
        profile: normaliser of both.
        speakers: whether cpCER is wanted; it is omitted too if no reference turn has a speaker.
        by_name: whether saCER is wanted, that is, whether hypothesis names are meant to be the reference's.
        metrics: further metrics.
    """
    tokens = Tokens(profile)
    reference, hypothesis = tokens.rows(session.reference), tokens.rows(session.hypothesis)
    cer = cer_edits(reference, hypothesis)
    further = score_metrics(session, tokens, metrics)
    if not speakers or (reference and all(r.speaker is None for r, _ in reference)):
        return SessionScore(session.id, session.unit_group, cer, notes=session.notes, metrics=further)
    ref, hyp = streams(reference), streams(hypothesis)
    cp, assignment = cp_edits(ref, hyp)
    sa = sa_edits(ref, hyp) if by_name else None
    return SessionScore(session.id, session.unit_group, cer, cp, sa, assignment, session.notes, further)


def score_metrics(session: SessionTranscript, tokens: Tokens, metrics: Sequence[Metric]) -> dict[str, ErrorRate | None]:
    """Score metrics that were asked for by name."""
    if not metrics:
        return {}
    reference, hypothesis = in_time_order(session.reference), in_time_order(session.hypothesis)
    found = {m: m.score(reference, hypothesis, tokens) for m in metrics}
    coarse = any(r.coarse for r in hypothesis)
    return {m.title: rate and ErrorRate(*rate, m.unit, coarse and m.of_ends) for m, rate in found.items()}


def names_are_shared(sessions: Iterable[SessionTranscript]) -> bool:
    """Whether any hypothesis uses a name of its reference, so that comparing by name means something.

    Labels of the form ``spkN`` are not names.
    """
    for s in sessions:
        names = {x.speaker for x in s.reference if x.speaker and not is_generic(x.speaker)}
        if any(x.speaker in names for x in s.hypothesis):
            return True
    return False
