"""Definitions of the report's terms, shown on hover and at the end of the page."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.evaluation.figure_names import named
from pipeline.evaluation.metrics import describe

_TERMS = {
    "CER": "Edits between one stream of reference tokens in order of start time and one of hypothesis tokens, who "
    "spoke ignored; in percent of the reference tokens.",
    "cpCER": "Each speaker's turns joined, hypothesis speakers assigned to reference speakers so that the errors are "
    "fewest.",
    "saCER": "As cpCER, with speakers compared by name: a name that is not in the reference is all insertions, a "
    "reference name that was not used all deletions.",
    "Δcp": "cpCER − CER in percentage points: what attributing words to speakers adds. May be negative.",
    "Δsa": "saCER − CER in percentage points: what naming speakers adds. May be negative.",
    "DER": "Diarisation error rate: missed, false and confused speech time over reference speech time; overlap scored.",
    "N_ov": "Number of registered persons who do not speak, or its range.",
    "ref. tokens": "Characters, words or both, as the normaliser counts them, in the reference.",
    "normaliser": "What was done to both sides before they were compared, and what a token is.",
    "95 % interval": "Range of the figure if recordings are drawn again with replacement: 95 % of the draws.",
    "ASR": "The model transcribes one speaker; speakers are not scored.",
    "No-Regist": "No speaker is registered; labels are generic.",
    "Match-Regist": "Exactly the speakers of the recording are registered.",
    "Over-Regist": "The speakers of the recording and N_ov others are registered.",
    "absent name": "Percent of turns with the name of a registered speaker who does not speak.",
    "spkN": "Percent of turns with a generic label although names were registered.",
    "unknown name": "Percent of turns with a name that was not registered.",
    "no speaker": "Percent of turns without a speaker.",
    "speaker count right": "Percent of recordings with the right number of speakers.",
    "speaker count error": "Mean absolute error of the number of speakers.",
    "overlap": "Share of the speech time in which two or more persons speak, by the reference's times.",
    "p, bootstrap": "Two-sided p of a paired bootstrap: twice the smaller share of draws of recordings in which the "
    "difference is at or beyond zero. Not corrected for the number of pairs.",
    "p, permutation": "Two-sided p of a permutation test that swaps the two rows recording by recording.",
    "B − A": "Difference in percentage points. Negative: B has fewer errors.",
}


def definitions(normalisers: Iterable[str], metrics: Iterable[str] = ()) -> dict[str, str]:
    """Return term → definition, with rates named by what these normalisers count.

    Args:
        metrics: titles of further metrics; each is defined by the first line of its docstring.
    """
    kinds = list(normalisers)
    found = {named(term, kinds): named(text, kinds) for term, text in _TERMS.items()}
    return found | {title: about for title in metrics if (about := describe(title))}
