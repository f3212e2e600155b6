"""Assign words to speakers: timed words × timed turns

The rule, word by word, in order of time:

1. the word goes to the voice whose turns cover most of it;
2. in overlapped speech several cover it equally (to 10 ms): then to the voice that had the word before, since a
   recogniser of one stream follows one voice; if it is not among them, to the one whose turn began last, since an
   interruption is heard;
3. a word that no turn touches goes to the nearest turn, at equal distance to the one before it;
4. without any turn, all words belong to one voice.

Each word goes to exactly one voice, so the text is the recogniser's, word for word, and CER does not depend on the
diarizer. Words of one voice with no other's between them and pauses of less than a second are one segment.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.baselines.interfaces import DiarizedTurn, Word
from pipeline.evaluation.records import SegLstRow
from pipeline.prompts import anonymous_label

EQUAL_S = 0.01
PAUSE_S = 1.0  # from which the same voice begins a new segment
SHORTEST_S = 0.001  # recognisers give words without length


def join(session: str, words: Sequence[Word], turns: Sequence[DiarizedTurn]) -> list[SegLstRow]:
    """Return segments in order of time, with voices called ``spk0``, ``spk1`` … in order of their first word."""
    ordered = sorted(words, key=lambda w: (w.start, w.end))
    labels: dict[str, str] = {}
    groups: list[tuple[str, list[Word]]] = []
    for word, speaker in zip(ordered, speakers(ordered, turns), strict=True):
        label = labels.setdefault(speaker, anonymous_label(len(labels)))
        if groups and groups[-1][0] == label and word.start - groups[-1][1][-1].end < PAUSE_S:
            groups[-1][1].append(word)
        else:
            groups.append((label, [word]))
    made = [SegLstRow(session, s, _text(g), g[0].start, max(w.end for w in g)) for s, g in groups]
    return [s for s in made if s.text]


def speakers(words: Sequence[Word], turns: Sequence[DiarizedTurn]) -> list[str]:
    """The voice of each word; words in order of time."""
    found: list[str] = []
    for word in words:
        found.append(_speaker(word, turns, found[-1] if found else None))
    return found


def _speaker(word: Word, turns: Sequence[DiarizedTurn], before: str | None) -> str:
    if not turns:
        return ""
    end = max(word.end, word.start + SHORTEST_S)
    cover: dict[str, float] = {}
    began: dict[str, float] = {}
    for turn in turns:
        common = min(end, turn.end) - max(word.start, turn.start)
        if common > 0:
            cover[turn.speaker] = cover.get(turn.speaker, 0.0) + common
            began[turn.speaker] = max(began.get(turn.speaker, turn.start), turn.start)
    if not cover:
        return min(turns, key=lambda t: (max(t.start - end, word.start - t.end), t.start)).speaker
    most = max(cover.values())
    equal = [s for s, seconds in cover.items() if seconds >= most - EQUAL_S]
    return before if before in equal else max(equal, key=lambda s: (began[s], s))


def _text(words: Sequence[Word]) -> str:
    return " ".join("".join(w.text for w in words).split())
