"""Timeline of a session: the reference's speakers, below them those of one system or two, over one axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipeline.evaluation.error_analysis import NO_SPEAKER, Bar, SessionAnalysis
from shards.dataset import pages
from shards.dataset.pages import NO_COLOUR, Lane, Timeline

ESTIMATED = " (times estimated)"  # from the alignment


def timeline(d: SessionAnalysis, colours: Mapping[str, str], name: str = "hypothesis") -> Timeline | None:
    """Return the lanes of a session; ``None`` if no turn has times.

    A hypothesis speaker has the colour of the reference speaker that it was assigned to.

    Args:
        colours: reference speaker → colour.
        name: of the system.
    """
    lanes = [*_lanes(d, d.reference_bars, "reference", dict(colours), False)]
    lanes += _lanes(d, d.hypothesis_bars, _title(name, d), assigned_colours(d, d, colours), d.estimated)
    if d.other is not None:
        second, other = d.other
        lanes += _lanes(
            other, other.hypothesis_bars, _title(second, other), assigned_colours(other, d, colours), other.estimated
        )
    ends = [b.end for lane in lanes for b in lane.bars]
    return Timeline(tuple(lanes), max(ends)) if ends else None


def _title(name: str, d: SessionAnalysis) -> str:
    return name + (ESTIMATED if d.estimated and d.hypothesis_bars else "")


def _lanes(
    d: SessionAnalysis, bars: Sequence[Bar], group: str, colours: Mapping[str, str], estimated: bool
) -> Iterator[Lane]:
    for speaker in dict.fromkeys(b.speaker for b in bars):
        own = tuple(pages.Bar(b.start, b.end, b.text[:200]) for b in bars if b.speaker == speaker)
        yield Lane(_who(d, speaker), colours.get(speaker, NO_COLOUR), own, group, estimated)


def _who(d: SessionAnalysis, speaker: str) -> str:
    """Return the title of a lane; without speakers one lane holds all."""
    return "all speakers" if d.score.cpcer is None and speaker == NO_SPEAKER else speaker


def assigned_colours(d: SessionAnalysis, shown: SessionAnalysis, colours: Mapping[str, str]) -> dict[str, str]:
    """Return hypothesis speaker → colour of the reference speaker in ``shown`` that it was assigned to.

    The reference of ``d`` may name the same persons otherwise (names are drawn for each mode): the n-th speaker of one
    is the n-th of the other.
    """
    ours, theirs = (list(dict.fromkeys(b.speaker for b in x.reference_bars)) for x in (shown, d))
    same = dict(zip(theirs, ours, strict=False))
    return {p.hypothesis: colours[name] for p in d.pairs if (name := same.get(p.reference, p.reference)) in colours}
