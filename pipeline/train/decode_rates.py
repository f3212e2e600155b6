"""Rates of the small decode of validation, in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.decode.dialogues import well_formed

if TYPE_CHECKING:
    from pipeline.evaluation.normalize import Profile

RATES = ("cer", "cpcer", "sacer")
OF_DIALOGUES = ("cer", "cpcer", "der", "right_speakers", "well_formed")
NAMES = {"right_speakers": "right number of speakers", "well_formed": "well-formed first replies"}


def rates(rows: Sequence[dict[str, Any]], chosen: Profile) -> dict[str, Any]:
    """Compute the rates of the clips by mode, and over all modes that have them; count the clips.

    Dialogues have no modes: CER, cpCER, DER of the model's own times, the share of clips with the right number of
    speakers, and the share of turns whose first reply passed all guards.
    """
    from pipeline.evaluation.edit_distance import Edits
    from pipeline.evaluation.scores import score_rows

    if any(row.get("format") for row in rows):
        return {"all": _of_dialogues(rows, chosen)}
    scored = list(zip([r["mode"] for r in rows], score_rows(rows, chosen), strict=True))
    out: dict[str, Any] = {}
    for mode in (*dict.fromkeys(m for m, _ in scored), "all"):
        scores = [s for m, s in scored if mode in (m, "all")]
        out[mode] = {"clips": len(scores)}
        for rate in RATES:
            edits = [e for s in scores if (e := getattr(s, rate)) is not None]
            out[mode][rate] = sum(edits, Edits()).percent if edits else None
    return out


def _of_dialogues(rows: Sequence[dict[str, Any]], chosen: Profile) -> dict[str, Any]:
    from pipeline.evaluation.metrics import load_metrics
    from pipeline.evaluation.scores import score_rows
    from pipeline.evaluation.session_scores import total

    sums = total(score_rows(rows, chosen, load_metrics(["der", "speaker-count"])))
    figures = {name: rate.figure if rate else None for name, rate in sums.metrics.items()}
    values = (
        sums.cer.percent,
        sums.cpcer.percent if sums.cpcer else None,
        figures["der"],
        figures["speaker-count"],
        well_formed(rows),
    )
    return {"clips": len(rows), **dict(zip(OF_DIALOGUES, values, strict=True))}
