"""Transfer speakers between transcripts: alignment of words, then of speakers

The transcript-preserving speaker transfer of DiarizationLM (Wang et al. 2024, arXiv 2401.03506): words of both are
aligned by edit distance, an aligned word takes the speaker of its partner, another that of the aligned word before it
(at the beginning: of the first aligned word). Labels are matched so that most words keep theirs.

It makes targets for fine-tuning (the cascade's words, the reference's speakers), and holds a correcting LLM to the
words that it was given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.evaluation.records import SegLstRow
from pipeline.prompts import anonymous_label

_TOKEN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]|[^\s\u3400-\u4dbf\u4e00-\u9fff]+")


def transfer(words_of: Sequence[SegLstRow], speakers_of: Sequence[SegLstRow]) -> list[SegLstRow]:
    """The words of the first in their order, with speakers of the second. Times go where a turn is cut.

    Labels are those of the first, as far as it has as many; further speakers are ``spkN``.
    """
    words, old = _tokens(words_of)
    others, new = _tokens(speakers_of)
    if not words or not others:
        return list(words_of)
    partner = _partners([_plain(w) for w, _ in words], [_plain(w) for w, _ in others])
    given = _filled([None if p is None else new[p] for p in partner], old)
    labels = _labels(old, given)
    return _segments(words_of, words, [labels[g] for g in given])


def _tokens(segments: Sequence[SegLstRow]) -> tuple[list[tuple[str, int]], list[str]]:
    """(word with the white space before it, segment) of each word, and its speaker."""
    words: list[tuple[str, int]] = []
    speakers: list[str] = []
    for i, segment in enumerate(segments):
        end = 0
        for found in _TOKEN.finditer(segment.text):
            words.append((segment.text[end : found.end()], i))
            speakers.append(segment.speaker or "")
            end = found.end()
    return words, speakers


def _plain(word: str) -> str:
    return re.sub(r"\W", "", word).casefold() or word.strip()


def _partners(first: Sequence[str], second: Sequence[str]) -> list[int | None]:
    """Index into the second for each word of the first: equal ones and substitutions."""
    from rapidfuzz.distance import Levenshtein

    found: list[int | None] = [None] * len(first)
    for op in Levenshtein.opcodes(first, second):
        if op.tag in ("equal", "replace"):
            for a, b in zip(range(op.src_start, op.src_end), range(op.dest_start, op.dest_end), strict=False):
                found[a] = b
    return found


def _filled(speakers: Sequence[str | None], otherwise: Sequence[str]) -> list[str]:
    known = [s for s in speakers if s is not None]
    if not known:
        return list(otherwise)
    out, last = [], known[0]
    for speaker in speakers:
        last = speaker if speaker is not None else last
        out.append(last)
    return out


def _labels(old: Sequence[str], new: Sequence[str]) -> dict[str, str]:
    """New label → old one, so that most words keep theirs; a label without partner is a further ``spkN``."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    rows, columns = list(dict.fromkeys(new)), list(dict.fromkeys(old))
    common = np.zeros((len(rows), len(columns)))
    for a, b in zip(new, old, strict=True):
        common[rows.index(a), columns.index(b)] += 1
    matched = {rows[r]: columns[c] for r, c in zip(*linear_sum_assignment(-common), strict=True)}
    number = 0
    for label in rows:
        if label not in matched:
            while anonymous_label(number) in [*columns, *matched.values()]:
                number += 1
            matched[label] = anonymous_label(number)
    return matched


def _segments(source: Sequence[SegLstRow], words: Sequence[tuple[str, int]], labels: Sequence[str]) -> list[SegLstRow]:
    """Runs of words of one segment and speaker; a segment's time is shared out by letters."""
    out: list[SegLstRow] = []
    first = 0
    for i in range(1, len(words) + 1):
        if i < len(words) and words[i][1] == words[first][1] and labels[i] == labels[first]:
            continue
        segment = source[words[first][1]]
        inside = [j for j, (_, s) in enumerate(words) if s == words[first][1]]
        text = "".join(w for w, _ in words[first:i]).strip()
        start, end = _share(segment, [len(words[j][0]) for j in inside], first - inside[0], i - inside[0])
        out.append(SegLstRow(segment.session, labels[first], text, start, end))
        first = i
    return out


def _share(segment: SegLstRow, letters: Sequence[int], first: int, last: int) -> tuple[float | None, float | None]:
    if segment.start is None or segment.end is None:
        return None, None
    seconds, total = segment.end - segment.start, sum(letters)
    begin, stop = (segment.start + seconds * sum(letters[:n]) / total for n in (first, last))
    return begin, stop
