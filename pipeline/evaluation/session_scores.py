"""CER, cpCER, saCER and ORC-CER of sessions.

All four count edits between normalised tokens (characters, or what the profile's unit is). Every figure of a set is the
sum of errors over the sum of reference tokens (micro-average), never a mean of rates.

- **CER** compares one stream with one: the reference in order of start time against the hypothesis in order of its
  start times, or as emitted where it has none. Who spoke is ignored.
- **cpCER** joins the turns of each speaker in time order and takes the assignment of hypothesis to reference speakers
  with the fewest errors (Hungarian method). A speaker too many is all insertions, one too few all deletions.
- **saCER** joins in the same way and compares by name. A name that is not in the reference is all insertions, a
  reference name that was not used all deletions.
- **ORC-CER** gives each reference turn, in time order, to the hypothesis stream where it costs least.

Text that has no speaker counts in the CER stream; in cpCER and saCER it is all insertions. Without reference tokens a
rate is undefined, and the errors still count in the sum. Δcp = cpCER − CER, Δsa = saCER − CER; either may be negative
(streams can be interleaved in an order that fits worse than the speakers do), nothing is clamped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.evaluation.edit_distance import Edits, count, distance, encode
from pipeline.evaluation.normalize import Profile
from pipeline.evaluation.parse import is_generic
from pipeline.evaluation.records import SegLstRow, SessionTranscript, in_time_order

Streams = dict[str | None, list[str]]  # speaker → tokens in time order
Pair = tuple[str | None, str | None]  # reference speaker, hypothesis speaker

ORC_CELLS = 20_000_000  # reference tokens × product of stream lengths up to which meeteval's exact search is used


@dataclass(frozen=True)
class SessionScore:
    """One session's counts. ``None`` where a figure is not defined for it."""

    id: str
    group: str
    cer: Edits
    cpcer: Edits | None = None
    sacer: Edits | None = None
    assignment: tuple[Pair, ...] = ()  # of cpCER
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Total:
    """Sums over sessions."""

    cer: Edits
    cpcer: Edits | None
    sacer: Edits | None
    sessions: int

    @property
    def delta_cp(self) -> float | None:
        """cpCER − CER in percentage points."""
        return difference(self.cpcer, self.cer)

    @property
    def delta_sa(self) -> float | None:
        """saCER − CER in percentage points."""
        return difference(self.sacer, self.cer)


def difference(a: Edits | None, b: Edits | None) -> float | None:
    """``a − b`` in percentage points, ``None`` where one of them is undefined."""
    if a is None or b is None or a.percent is None or b.percent is None:
        return None
    return a.percent - b.percent


def total(scores: Iterable[SessionScore]) -> Total:
    """Sum up. A figure that some session lacks is left out: a sum over other sessions would not be comparable."""
    listed = list(scores)
    cp = [s.cpcer for s in listed if s.cpcer is not None]
    sa = [s.sacer for s in listed if s.sacer is not None]
    return Total(
        cer=sum((s.cer for s in listed), Edits()),
        cpcer=sum(cp, Edits()) if cp and len(cp) == len(listed) else None,
        sacer=sum(sa, Edits()) if sa and len(sa) == len(listed) else None,
        sessions=len(listed),
    )


def score_session(
    session: SessionTranscript, profile: Profile, speakers: bool = True, by_name: bool = False
) -> SessionScore:
    """Score one session.

    Args:
        session: reference and hypothesis.
        profile: normaliser of both.
        speakers: whether cpCER is wanted; it is left out too where no reference turn has a speaker.
        by_name: whether saCER is wanted, that is, whether hypothesis names are meant to be the reference's.
    """
    split = Tokens(profile)
    reference, hypothesis = split.segments(session.reference), split.segments(session.hypothesis)
    cer = cer_edits(reference, hypothesis)
    if not speakers or (reference and all(s.speaker is None for s, _ in reference)):
        return SessionScore(session.id, session.unit_group, cer, notes=session.notes)
    ref, hyp = streams(reference), streams(hypothesis)
    cp, assignment = cp_edits(ref, hyp)
    sa = sa_edits(ref, hyp) if by_name else None
    return SessionScore(session.id, session.unit_group, cer, cp, sa, assignment, session.notes)


class Tokens:
    """Splits segments by a profile, each distinct text once."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.seen: dict[str, list[str]] = {}

    def segments(self, segments: Iterable[SegLstRow]) -> list[tuple[SegLstRow, list[str]]]:
        """Segments in time order with their tokens."""
        return [(s, self(s.text)) for s in in_time_order(segments)]

    def __call__(self, text: str) -> list[str]:
        if text not in self.seen:
            self.seen[text] = self.profile.tokens(text)
        return self.seen[text]


def streams(segments: Iterable[tuple[SegLstRow, list[str]]]) -> Streams:
    """Join the tokens of each speaker, in the given order."""
    joined: Streams = {}
    for segment, tokens in segments:
        joined.setdefault(segment.speaker, []).extend(tokens)
    return joined


def cer_edits(
    reference: Sequence[tuple[SegLstRow, list[str]]], hypothesis: Sequence[tuple[SegLstRow, list[str]]]
) -> Edits:
    """One stream against one."""
    return count(*encode([t for _, ts in reference for t in ts], [t for _, ts in hypothesis for t in ts]))


def cp_edits(reference: Streams, hypothesis: Streams) -> tuple[Edits, tuple[Pair, ...]]:
    """Concatenated minimum-permutation errors, and the assignment.

    Cost: one distance per pair of speakers, then O(n³) for n speakers: any number of speakers works.
    """
    ref, hyp = _named(reference), _named(hypothesis)
    coded = encode(*ref.values(), *hyp.values())
    a = dict(zip(ref, coded[: len(ref)], strict=True))
    b = dict(zip(hyp, coded[len(ref) :], strict=True))
    pairs = _assign(a, b)
    edits = sum(
        (count(a[r] if r is not None else "", b[h] if h is not None else "") for r, h in pairs),
        _loose(reference, hypothesis),
    )
    return edits, pairs


def sa_edits(reference: Streams, hypothesis: Streams) -> Edits:
    """Errors by name."""
    edits = _loose(reference, hypothesis)
    ref, hyp = _named(reference), _named(hypothesis)
    for name in dict.fromkeys([*ref, *hyp]):
        edits += count(*encode(ref.get(name, []), hyp.get(name, [])))
    return edits


def orc_edits(
    reference: Sequence[tuple[SegLstRow, list[str]]], hypothesis: Streams, cells: int = ORC_CELLS
) -> tuple[Edits, bool]:
    """Optimal-reference-combination errors by meeteval, and whether the search was exact.

    The exact search takes time and memory of the product of all stream lengths. Past ``cells`` meeteval's greedy search
    is used, which gives an upper bound.
    """
    import meeteval

    turns = [tokens for _, tokens in reference if tokens]
    hyp = {str(i): v for i, v in enumerate(hypothesis.values()) if v}
    length = sum(map(len, turns))
    if not turns or not hyp:
        return Edits(sum(map(len, hyp.values())), length, 0, length), True
    size = length
    for stream in hyp.values():
        size *= len(stream) + 1
    exact = size <= cells and len(hyp) <= 10
    search: Callable[..., object] = (
        meeteval.wer.orc_word_error_rate if exact else meeteval.wer.wer.orc.greedy_orc_word_error_rate
    )
    ref_rows = [{"session_id": "s", "speaker": "r", "words": " ".join(t)} for t in turns]
    hyp_rows = [{"session_id": "s", "speaker": k, "words": " ".join(v)} for k, v in hyp.items()]
    found = search(meeteval.io.SegLST(ref_rows), meeteval.io.SegLST(hyp_rows), False, False)
    return Edits(found.insertions, found.deletions, found.substitutions, length), exact  # type: ignore[attr-defined]


def names_are_shared(sessions: Iterable[SessionTranscript]) -> bool:
    """Whether any hypothesis uses a name of its reference, so that comparing by name means something.

    Labels of the form ``spkN`` are no names.
    """
    for s in sessions:
        names = {x.speaker for x in s.reference if x.speaker and not is_generic(x.speaker)}
        if any(x.speaker in names for x in s.hypothesis):
            return True
    return False


def _loose(reference: Streams, hypothesis: Streams) -> Edits:
    """Errors of the text without a speaker: all of it."""
    missed = len(reference.get(None, []))
    return Edits(insertions=len(hypothesis.get(None, [])), deletions=missed, reference=missed)


def _named(joined: Streams) -> dict[str, list[str]]:
    return {k: v for k, v in joined.items() if k is not None}


def _assign(reference: dict[str, str], hypothesis: dict[str, str]) -> tuple[Pair, ...]:
    """Reference speakers in order with their hypothesis speaker, then the hypothesis speakers left over."""
    if not reference or not hypothesis:
        return (*((r, None) for r in reference), *((None, h) for h in hypothesis))
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    size = max(len(reference), len(hypothesis))
    refs = [*reference.values(), *[""] * (size - len(reference))]
    hyps = [*hypothesis.values(), *[""] * (size - len(hypothesis))]
    costs = np.array([[distance(r, h) for h in hyps] for r in refs], dtype=np.int64)
    _, columns = linear_sum_assignment(costs)
    ref_names = [*reference, *[None] * (size - len(reference))]
    hyp_names = [*hypothesis, *[None] * (size - len(hypothesis))]
    return tuple((r, hyp_names[c]) for r, c in zip(ref_names, columns, strict=True))
