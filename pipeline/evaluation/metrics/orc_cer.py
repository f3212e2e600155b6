"""ORC-CER: optimal reference combination, each reference turn given to the hypothesis stream where it costs least."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.evaluation.edit_distance import Edits
from pipeline.evaluation.records import SegLstRow
from pipeline.evaluation.tokens import Streams, TokenisedRows, streams

ORC_CELLS = 20_000_000  # reference tokens × product of stream lengths up to which meeteval's exact search is used


def orc_edits(reference: TokenisedRows, hypothesis: Streams, cells: int = ORC_CELLS) -> tuple[Edits, bool]:
    """Count the edits by meeteval, and return whether the search was exact.

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


def score(
    reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow], tokens: Callable[[str], list[str]]
) -> tuple[float, float]:
    """Return errors (an upper bound where the search is greedy) and reference tokens."""
    rows = [(r, tokens(r.text)) for r in reference]
    edits, _ = orc_edits(rows, streams((r, tokens(r.text)) for r in hypothesis))
    return edits.errors, edits.reference
