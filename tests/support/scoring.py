"""Sessions for scorer tests, and the figures' definitions written out plainly, with none of the pipeline's code."""

from __future__ import annotations

import itertools
import random
from functools import cache
from pathlib import Path

from pipeline.evaluation.records import SegLstRow, SessionTranscript

ALPHABET = "的一是了我不人在他有这个上们来"


def plain_distance(a: list[str], b: list[str]) -> int:
    """Levenshtein's distance, row by row."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def plain_cer(session: SessionTranscript) -> int:
    """Errors of one stream against one."""
    return plain_distance(list(_text(_by_time(session.reference))), list(_text(_by_time(session.hypothesis))))


def plain_cp(session: SessionTranscript) -> int:
    """Fewest errors over all assignments, tried one by one."""
    ref, hyp = _streams(session.reference), _streams(session.hypothesis)
    loose = len(hyp.pop(None, "")) + len(ref.pop(None, ""))
    size = max(len(ref), len(hyp))
    a = [*ref.values(), *[""] * (size - len(ref))]
    b = [*hyp.values(), *[""] * (size - len(hyp))]
    distance = cache(lambda i, j: plain_distance(list(a[i]), list(b[j])))
    return loose + min(
        (sum(distance(i, j) for i, j in enumerate(order)) for order in itertools.permutations(range(size))), default=0
    )


def plain_sa(session: SessionTranscript) -> int:
    """Errors name by name: no such name in the reference is all insertions, a name not used all deletions."""
    ref, hyp = _streams(session.reference), _streams(session.hypothesis)
    loose = len(hyp.pop(None, "")) + len(ref.pop(None, ""))
    return loose + sum(plain_distance(list(ref.get(n, "")), list(hyp.get(n, ""))) for n in {*ref, *hyp})


def plain_orc(session: SessionTranscript) -> int:
    """Fewest errors over all ways to give each reference turn to a hypothesis stream."""
    turns = [s.text for s in _by_time(session.reference)]
    hyp = list(_streams(session.hypothesis).values()) or [""]
    best = None
    for choice in itertools.product(range(len(hyp)), repeat=len(turns)):
        streams = ["".join(t for t, c in zip(turns, choice, strict=True) if c == k) for k in range(len(hyp))]
        errors = sum(plain_distance(list(r), list(h)) for r, h in zip(streams, hyp, strict=True))
        best = errors if best is None else min(best, errors)
    return best or 0


def random_session(
    seed: int, speakers: int = 4, turns: int = 8, length: int = 12, noise: float = 0.2
) -> SessionTranscript:
    """A session with errors of every kind: characters, wrong speakers, unknown and missing names, order."""
    rng = random.Random(seed)
    names = [f"S{i}" for i in range(rng.randint(1, speakers))]
    reference, hypothesis, clock = [], [], 0.0
    for _ in range(rng.randint(0 if seed % 17 == 0 else 1, turns)):
        text = "".join(rng.choices(ALPHABET, k=rng.randint(1, length)))
        start = max(0.0, clock - rng.random())
        clock = start + 0.2 * len(text)
        reference.append(SegLstRow(f"s{seed}", rng.choice(names), text, start, clock))
        if rng.random() < noise / 2:
            continue
        said = "".join(rng.choice(ALPHABET) if rng.random() < noise else c for c in text if rng.random() > noise / 2)
        said += "".join(rng.choices(ALPHABET, k=rng.randint(0, 2)))
        who = rng.choice([*names, "unknown"]) if rng.random() < noise else reference[-1].speaker
        hypothesis.append(SegLstRow(f"s{seed}", who, said))
    if rng.random() < 0.05:
        hypothesis = []
    rng.shuffle(reference)
    return SessionTranscript(f"s{seed}", tuple(reference), tuple(hypothesis), group=f"g{seed % 7}")


def odd_session(seed: int) -> SessionTranscript:
    """A random session with what real files have too.

    A hypothesis with times, of which one may lack; text without a speaker and turns without text on either side;
    turns that overlap, also of one speaker, to 10 ms; speakers of the reference by other names.
    """
    rng = random.Random(seed)
    made = random_session(seed, speakers=4, turns=10)

    def rows(turns: tuple[SegLstRow, ...], timed: bool, names: dict[str | None, str | None]) -> tuple[SegLstRow, ...]:
        out = []
        for turn in turns:
            start = rng.randrange(0, 2_000) / 100
            times = (start, start + rng.randrange(1, 600) / 100) if timed else (None, None)
            speaker = None if rng.random() < 0.05 else names.get(turn.speaker, turn.speaker)
            out.append(SegLstRow(turn.session, speaker, "" if rng.random() < 0.05 else turn.text, *times))
        return tuple(out)

    renamed: dict[str | None, str | None] = {"S0": "S1", "S1": "S0", "S2": "new"} if rng.random() < 0.5 else {}
    hypothesis = rows(made.hypothesis, rng.random() < 0.6, renamed)
    if hypothesis and rng.random() < 0.1:
        hypothesis = (SegLstRow(made.id, hypothesis[0].speaker, hypothesis[0].text), *hypothesis[1:])
    return SessionTranscript(made.id, rows(made.reference, rng.random() < 0.8, {}), hypothesis, made.group)


def plain_der(session: SessionTranscript, collar: float = 0.0) -> tuple[int, int, int, int]:
    """Frames of 10 ms missed, false and confused, and of reference speech; every mapping of speakers is tried.

    NIST's definition: time closer than the collar to a start or end of a reference speaker's speech is not scored.
    """
    ref, hyp = _spoken(session.reference), _spoken(session.hypothesis)
    edges = {t for spoken in ref.values() for start, end in _stretches(spoken) for t in (start, end)}
    width = round(100 * collar)
    unscored = {t for edge in edges for t in range(edge - width, edge + width)}
    for spoken in (*ref.values(), *hyp.values()):
        spoken.difference_update(unscored)
    at: dict[int, list[int]] = {}
    for side, speakers in enumerate((ref, hyp)):
        for spoken in speakers.values():
            for t in spoken:
                at.setdefault(t, [0, 0])[side] += 1
    common = {(r, h): len(ref[r] & hyp[h]) for r in ref for h in hyp}
    padded = [*ref, *[None] * len(hyp)]
    correct = max(
        sum(common[r, h] for h, r in zip(hyp, chosen, strict=True) if r is not None)
        for chosen in itertools.permutations(padded, len(hyp))
    )
    missed, false = (sum(max(0, sign * (r - h)) for r, h in at.values()) for sign in (1, -1))
    return missed, false, sum(map(min, at.values())) - correct, sum(r for r, _ in at.values())


def _spoken(segments: tuple[SegLstRow, ...]) -> dict[str | None, set[int]]:
    """Speaker → frames of speech."""
    found: dict[str | None, set[int]] = {}
    for s in (x for x in segments if x.start is not None):
        found.setdefault(s.speaker, set()).update(range(round(100 * s.start), round(100 * s.end)))
    return found


def _stretches(spoken: set[int]) -> list[tuple[int, int]]:
    starts = sorted(t for t in spoken if t - 1 not in spoken)
    ends = sorted(t + 1 for t in spoken if t + 1 not in spoken)
    return list(zip(starts, ends, strict=True))


def _by_time(segments: tuple[SegLstRow, ...]) -> list[SegLstRow]:
    return sorted(segments, key=lambda s: s.start) if all(s.start is not None for s in segments) else list(segments)


def _text(segments: list[SegLstRow]) -> str:
    return "".join(s.text for s in segments)


def _streams(segments: tuple[SegLstRow, ...]) -> dict[str | None, str]:
    joined: dict[str | None, str] = {}
    for s in _by_time(segments):
        joined[s.speaker] = joined.get(s.speaker, "") + s.text
    return joined


def put(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """Write a file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path
