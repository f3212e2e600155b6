"""Error analysis of one session: alignment per speaker, speaker confusion, and a timeline.

Nothing here changes a score; it shows where the errors of :mod:`pipeline.evaluation.session_scores` are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluation.edit_distance import Kind, align
from pipeline.evaluation.metrics.cpcer import SpeakerPair
from pipeline.evaluation.normalize import Profile
from pipeline.evaluation.records import SegLstRow, SessionTranscript
from pipeline.evaluation.session_scores import SessionScore, score_session
from pipeline.evaluation.tokens import TokenisedRows, Tokens, streams

NO_SPEAKER = "(no speaker)"


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring steps of an alignment of one kind; the tokens joined for reading."""

    kind: Kind
    reference: str
    hypothesis: str


@dataclass(frozen=True, slots=True)
class PairAlignment:
    """A reference speaker's stream against the hypothesis stream that it was compared with."""

    reference: str
    hypothesis: str
    spans: tuple[Span, ...]
    errors: int
    tokens: int  # of the reference


@dataclass(frozen=True, slots=True)
class Confusion:
    """``counts[i][j]``: reference tokens of speaker i aligned to hypothesis speaker j, all as one stream.

    The last column counts deletions, the last row insertions.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """A turn on a timeline, in seconds."""

    speaker: str
    start: float
    end: float
    text: str


@dataclass(frozen=True)
class SessionAnalysis:
    """Details of a session in the report."""

    score: SessionScore
    mode: str
    pairs: tuple[PairAlignment, ...]
    confusion: Confusion | None
    reference_bars: tuple[Bar, ...]
    hypothesis_bars: tuple[Bar, ...]
    estimated: bool  # whether the hypothesis's times come from the alignment
    reference: tuple[SegLstRow, ...]
    hypothesis: tuple[SegLstRow, ...]
    audio: str | None = None  # data: URI or relative path
    other: tuple[str, SessionAnalysis] | None = None  # a second system's name and analysis of the same session


def analyse_session(
    session: SessionTranscript,
    profile: Profile,
    mode: str,
    by_name: bool,
    audio: str | None = None,
    score: SessionScore | None = None,
) -> SessionAnalysis:
    """Analyse one session.

    Args:
        session: reference and hypothesis.
        profile: the normaliser of its score.
        mode: registration mode.
        by_name: compare speakers by name; ignored if ``score`` is given.
        audio: data URI or relative path for the report.
        score: the session's score; computed if not given.
    """
    score = score or score_session(session, profile, mode != "asr", by_name)
    tokens = Tokens(profile)
    reference, hypothesis = tokens.rows(session.reference), tokens.rows(session.hypothesis)
    ref, hyp = streams(reference), streams(hypothesis)
    pairs: Sequence[SpeakerPair]
    if score.cpcer is None:
        ref = {None: [t for _, ts in reference for t in ts]}
        hyp = {None: [t for _, ts in hypothesis for t in ts]}
        pairs = [(None, None)]
    elif score.sacer is not None:
        pairs = [(n if n in ref else None, n if n in hyp else None) for n in dict.fromkeys([*ref, *hyp])]
    else:
        unattributed: list[SpeakerPair] = [(None, None)] if ref.get(None) or hyp.get(None) else []
        pairs = [*score.assignment, *unattributed]
    return SessionAnalysis(
        score=score,
        mode=mode,
        pairs=tuple(_pair(ref, hyp, r, h, profile) for r, h in pairs),
        confusion=_confusion(reference, hypothesis) if score.cpcer is not None else None,
        reference_bars=tuple(_bars(r for r, _ in reference)),
        hypothesis_bars=tuple(_bars(_timed(reference, hypothesis))),
        estimated=not all(r.timed for r, _ in hypothesis),
        reference=tuple(r for r, _ in reference),
        hypothesis=tuple(r for r, _ in hypothesis),
        audio=audio,
    )


def spans(reference: Sequence[str], hypothesis: Sequence[str], joint: str = "") -> tuple[Span, ...]:
    """Align two token sequences; join neighbouring steps of one kind."""
    out: list[Span] = []
    run: list[tuple[Kind, int | None, int | None]] = []
    for step in [*align(reference, hypothesis), None]:
        if run and (step is None or step[0] != run[0][0]):
            ref = joint.join(reference[i] for _, i, _ in run if i is not None)
            hyp = joint.join(hypothesis[j] for _, _, j in run if j is not None)
            out.append(Span(run[0][0], ref, hyp))
            run = []
        if step is not None:
            run.append(step)
    return tuple(out)


def _pair(
    ref: dict[str | None, list[str]], hyp: dict[str | None, list[str]], r: str | None, h: str | None, profile: Profile
) -> PairAlignment:
    single = (r, h) == (None, None)
    a = ref.get(r, []) if r is not None or single else []
    b = hyp.get(h, []) if h is not None or single else []
    found = spans(a, b, "" if profile.token == "character" else " ")
    errors = sum(kind != "correct" for kind, _, _ in align(a, b))
    return PairAlignment(r if r is not None else NO_SPEAKER, h if h is not None else NO_SPEAKER, found, errors, len(a))


def _owners(segments: TokenisedRows) -> tuple[list[str], list[int]]:
    """Return all tokens in order, and the segment number of each."""
    tokens, owner = [], []
    for i, (_, ts) in enumerate(segments):
        tokens += ts
        owner += [i] * len(ts)
    return tokens, owner


def _confusion(reference: TokenisedRows, hypothesis: TokenisedRows) -> Confusion:
    (a, a_owner), (b, b_owner) = _owners(reference), _owners(hypothesis)
    rows = [*dict.fromkeys(s.speaker or NO_SPEAKER for s, _ in reference), "extra"]
    columns = [*dict.fromkeys(s.speaker or NO_SPEAKER for s, ts in hypothesis if ts), "missed"]
    counts = [[0] * len(columns) for _ in rows]
    for _, i, j in align(a, b):
        row = len(rows) - 1 if i is None else rows.index(reference[a_owner[i]][0].speaker or NO_SPEAKER)
        column = len(columns) - 1 if j is None else columns.index(hypothesis[b_owner[j]][0].speaker or NO_SPEAKER)
        counts[row][column] += 1
    return Confusion(tuple(rows), tuple(columns), tuple(map(tuple, counts)))


def _bars(segments: object) -> list[Bar]:
    return [
        Bar(s.speaker or NO_SPEAKER, s.start, s.end, s.text)
        for s in segments  # type: ignore[attr-defined]
        if s.start is not None and s.end is not None and s.end > s.start
    ]


def _timed(reference: TokenisedRows, hypothesis: TokenisedRows) -> list[SegLstRow]:
    """Return the hypothesis with times; a turn without times spans the reference tokens that it is aligned to.

    A reference token's time is interpolated inside its segment. A turn aligned to no reference token is omitted.
    """
    if all(s.timed for s, _ in hypothesis) or not all(s.timed for s, _ in reference):
        return [s for s, _ in hypothesis]
    (a, a_owner), (b, b_owner) = _owners(reference), _owners(hypothesis)
    first = {o: k for k, o in reversed(list(enumerate(a_owner)))}
    found: dict[int, tuple[float, float]] = {}
    for _, i, j in align(a, b):
        if i is None or j is None:
            continue
        segment, tokens = reference[a_owner[i]]
        assert segment.start is not None
        assert segment.end is not None
        step = (segment.end - segment.start) / len(tokens)
        start = segment.start + (i - first[a_owner[i]]) * step
        low, high = found.get(b_owner[j], (start, start))
        found[b_owner[j]] = (min(low, start), max(high, start + step))
    return [SegLstRow(s.session, s.speaker, s.text, *found[k]) for k, (s, _) in enumerate(hypothesis) if k in found]
