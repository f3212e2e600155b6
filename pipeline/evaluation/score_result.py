"""Scores of one or two systems as one object: what is printed and what is written is taken from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.evaluation.bootstrap import FIGURES, Comparison, compare, few_recordings
from pipeline.evaluation.edit_distance import Edits
from pipeline.evaluation.figure_names import named
from pipeline.evaluation.metrics.orc_cer import orc_edits
from pipeline.evaluation.normalize import Profile
from pipeline.evaluation.records import SessionTranscript
from pipeline.evaluation.result_tables import Table
from pipeline.evaluation.scores import ScoreRow
from pipeline.evaluation.session_scores import SessionScore, total
from pipeline.evaluation.speaker_metrics import SpeakerScores
from pipeline.evaluation.tokens import Tokens, streams

TITLES = dict(zip(FIGURES, ("CER", "cpCER", "saCER"), strict=True))


@dataclass(frozen=True)
class ScoredSystem:
    """One hypothesis, scored."""

    name: str
    row: ScoreRow
    sessions: tuple[SessionTranscript, ...]
    scores: tuple[SessionScore, ...]
    speakers: SpeakerScores | None  # None: the reference has no speakers
    orc: tuple[Edits, bool] | None  # and whether it is exact; None: not asked for

    @property
    def rates(self) -> dict[str, Edits]:
        """Title → edits of all sessions, for each rate that is defined."""
        sums = total(self.scores)
        found = {title: getattr(sums, figure) for figure, title in TITLES.items()}
        if self.orc:
            found["ORC-CER" if self.orc[1] else "ORC-CER (greedy: at most)"] = self.orc[0]
        return {title: edits for title, edits in found.items() if edits is not None}


@dataclass(frozen=True)
class ScoreResult:
    """One or two systems on the same sessions."""

    systems: tuple[ScoredSystem, ...]
    profile: Profile
    collar: float
    comparisons: tuple[Comparison, ...]  # of the second system with the first, one per rate that both have
    warnings: tuple[str, ...]

    @property
    def rows(self) -> list[ScoreRow]:
        """Rows of scores.json."""
        return [system.row for system in self.systems]

    def errors(self, systems: Sequence[ScoredSystem] | None = None) -> Table:
        """Kinds of errors of each rate."""
        head = ("system", "rate", "%", "insertions", "deletions", "substitutions", f"reference ({self.profile.token}s)")
        lines = tuple(
            (
                s.name,
                named(title, [self.profile.name]),
                e.percent,
                e.insertions,
                e.deletions,
                e.substitutions,
                e.reference,
            )
            for s in (self.systems if systems is None else systems)
            for title, e in s.rates.items()
        )
        return Table("errors", "Errors by kind", head, lines, text_columns=2)

    def comparison(self) -> Table | None:
        """Differences of the second system from the first, in points; negative is better."""
        if not self.comparisons:
            return None
        head = ("B − A, points", "difference", "low", "high", "p, bootstrap", "p", "test", "recordings")
        lines = tuple(
            (
                named(TITLES[c.figure], [self.profile.name]),
                c.difference,
                c.low,
                c.high,
                c.p_bootstrap,
                c.p,
                _test(c),
                c.groups,
            )
            for c in self.comparisons
        )
        a, b = (s.name for s in self.systems)
        note = (
            f"A: {a}; B: {b}. 95 % interval and the first p by resampling recordings, the second p by swapping the "
            "systems per recording."
        )
        signs = dict.fromkeys(("difference", "low", "high"), "+.2f") | {"p": ".3g", "p, bootstrap": ".3g"}
        few = few_recordings(self.comparisons[0].groups)
        note += f" Note: {few}." if few else ""
        return Table("comparison", "Comparison of two systems", head, lines, note, formats=signs)

    def session_lines(self) -> Iterator[str]:
        """Lines of sessions.tsv, the header first."""
        yield "system\tsession\tfigure\tinsertions\tdeletions\tsubstitutions\treference"
        for system in self.systems:
            for s in system.scores:
                for figure in FIGURES:
                    if (e := getattr(s, figure)) is not None:
                        counts = (e.insertions, e.deletions, e.substitutions, e.reference)
                        yield "\t".join([system.name, s.id, figure, *map(str, counts)])


def make_result(systems: Sequence[ScoredSystem], profile: Profile, collar: float) -> ScoreResult:
    """Compare two systems, if there are two, and collect warnings."""
    groups = len({s.group for s in systems[0].scores})
    drawn = len(systems) == 2 or any(s.row["ci"] for s in systems)
    warnings = [few_recordings(groups) if drawn else None]
    comparisons: list[Comparison] = []
    if len(systems) == 2 and groups < 2:
        warnings.append("no comparison: it needs at least two recordings")
    elif len(systems) == 2:
        a, b = (system.scores for system in systems)
        for figure in FIGURES:
            if all(getattr(s, figure) is not None for s in (*a, *b)):
                comparisons.append(compare(a, b, figure))
    return ScoreResult(tuple(systems), profile, collar, tuple(comparisons), tuple(filter(None, warnings)))


def orc_rate(sessions: Sequence[SessionTranscript], profile: Profile) -> tuple[Edits, bool]:
    """Return ORC-CER's edits of all sessions, and whether they are exact."""
    tokens = Tokens(profile)
    found = [orc_edits(tokens.rows(s.reference), streams(tokens.rows(s.hypothesis))) for s in sessions]
    return sum((e for e, _ in found), Edits()), all(exact for _, exact in found)


def _test(comparison: Comparison) -> str:
    return "exact" if comparison.exact else "random"
