"""The texts of an update in one row, one after the other: all but attention runs once over them, without padding.

The tokens with which all of them begin, the prompt's system part, are in the row once. Attention is computed in runs of
positions, each causal and without a mask. A text is one run; where the positions behind its registration must not see
the hidden ones in it, it is two: the text up to there, and what is seen of that with all that follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from pipeline.standins.exercises import Text

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Texts of one exercise."""

    texts: Sequence[Text]
    noise: float  # length of what is added to a voice's unit vector, each time that it is heard
    weight: float = 1.0  # of its losses in an update


class PackedTexts:
    """Texts of groups, of N positions together, the longest of L; at P positions attention is supervised."""

    def __init__(self, groups: Sequence[Group], hide: bool = False) -> None:
        """Lay them out.

        Args:
            hide: positions behind a registration do not see the hidden ones in it.
        """
        import torch

        self.groups = groups
        self.texts = [text for group in groups for text in group.texts]
        self.hide = hide
        common = common_tokens(self.texts)
        *firsts, self.total = accumulate((len(text.ids) - common for text in self.texts), initial=common)
        self.starts = [first - common for first in firsts]  # a text's position p is in the row at start + p
        rests = [list(range(common, len(text.ids))) for text in self.texts]
        self.ids = torch.tensor([*self.texts[0].ids[:common], *(i for t in self.texts for i in t.ids[common:])])  # (N,)
        self.position_ids = torch.tensor([*range(common), *(p for rest in rests for p in rest)])  # (N,)
        self._rows = [
            [*range(common), *range(start + common, start + len(text.ids))]
            for text, start in zip(self.texts, self.starts, strict=True)
        ]
        self._lay_runs()
        self._lay_points()

    def of(self, which: int) -> Iterator[tuple[Text, int]]:
        """Yield the texts of a group, each with its start: what is added to a position of the text."""
        first = sum(len(group.texts) for group in self.groups[:which])
        return zip(self.groups[which].texts, self.starts[first:], strict=False)

    def _lay_runs(self) -> None:
        import torch

        taken: list[int] = []  # M positions of the row, run after run
        self.runs: list[int] = []  # lengths of the runs
        source = [0] * self.total  # place among the M whose output is that of a position
        for text, row in zip(self.texts, self._rows, strict=True):
            shut = text.seen_from if self.hide and text.registered else 0
            behind = ([row[p] for p in seen_of(text)] if shut else [], row[shut:])
            for seen, given in [([], row[:shut]), behind] if shut else [behind]:
                taken += seen
                for place, position in enumerate(given, len(taken)):
                    source[position] = place
                taken += given
                self.runs.append(len(seen) + len(given))
        self.taken, self.source = torch.tensor(taken), torch.tensor(source)

    def _lay_points(self) -> None:
        """Positions where attention is supervised, and for each the keys of its text that it sees."""
        import torch

        length = max(map(len, self._rows))
        points = [(number, *point) for number, text in enumerate(self.texts) for point in text.pointed]
        if not points:
            self.points = None
            return
        number, at, self.first, self.end = torch.tensor(points).unbind(1)
        keys = torch.tensor([row + [0] * (length - len(row)) for row in self._rows])  # (B, L)
        hidden = torch.zeros(keys.shape, dtype=torch.bool)
        for i, text in enumerate(self.texts if self.hide else ()):
            hidden[i, text.hidden] = True  # points are behind the registration
        self.points = torch.tensor([self.starts[n] + p for n, p, *_ in points])  # (P,)
        self.unseen = (torch.arange(length) > at.unsqueeze(1)) | hidden[number]  # (P, L)
        self.keys = keys[number]  # (P, L)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of every position: (H, N, D), (G, N, D), (G, N, D) → (N, H, D)."""
        import torch
        from torch.nn import functional

        heads = len(query)
        q, k, v = (self._taken(x, heads) for x in (query, key, value))
        parts = [
            functional.scaled_dot_product_attention(*qkv, is_causal=True, scale=scale).transpose(1, 2)[0]
            for qkv in zip(q.split(self.runs, 2), k.split(self.runs, 2), v.split(self.runs, 2), strict=True)
        ]
        out = torch.cat(parts).flatten(1)  # (M, H × D)
        return out.index_select(0, self.source).unflatten(1, (heads, -1))

    def _taken(self, x: Tensor, heads: int) -> Tensor:
        """(G, N, D) → (1, heads, M, D) in the order of the runs."""
        rows = x.transpose(0, 1).flatten(1).index_select(0, self.taken)
        x = rows.unflatten(1, (len(x), -1)).transpose(0, 1).unsqueeze(0)
        return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)

    def weights(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """Attention weights at the points: (h, N, D) of heads with one key, (N, D) → (P, h, L)."""
        assert self.points is not None
        asked = query.transpose(0, 1).flatten(1).index_select(0, self.points).unflatten(1, (len(query), -1))
        seen = key.index_select(0, self.keys.flatten()).unflatten(0, self.keys.shape)  # (P, L, D)
        scores = asked @ seen.transpose(1, 2) * scale
        weights: Tensor = scores.masked_fill(self.unseen.unsqueeze(1), float("-inf")).softmax(-1)
        return weights


def common_tokens(texts: Sequence[Text]) -> int:
    """Return how many tokens all texts begin with, audio and speaker vectors excluded."""
    others = [min([*(at for at, *_ in (*t.audio, *t.registered)), t.target_from, len(t.ids) - 1]) for t in texts]
    most, first = min(others), texts[0].ids
    return next((i for i in range(most) if any(text.ids[i] != first[i] for text in texts)), most)


def seen_of(text: Text) -> list[int]:
    """Return the positions of a registration, and before it, that are seen from behind it where names are hidden."""
    hidden = set(text.hidden)
    return [p for p in range(text.seen_from) if p not in hidden]
