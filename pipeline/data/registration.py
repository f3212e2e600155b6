"""Draw a sample's mode, its registered speakers, and their names in prompt and target.

The paper draws per batch: a third Match, a third No, a third Over. Here each *sample* draws, and batches are filled per
mode afterwards: a batch still has one mode, and every sample meets every mode with probability 1/3 (or the recipe's
``mode_shares``). Drawing per filled batch would starve Over, whose samples are longer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from pipeline.data.index_rows import DistractorBank, IndexRow
from pipeline.data.keyed_random import keyed_rng, keyed_uniform
from pipeline.data.speaker_names import corpus_names, pool_names
from pipeline.prompts import Mode
from pipeline.recipe.schema import ModeShares, RegistrationConfig


@dataclass(frozen=True, slots=True)
class ClipVector:
    """The vector of one of the clip's own speakers."""

    speaker: int  # index into the clip's speakers


@dataclass(frozen=True, slots=True)
class BankVector:
    """A vector of a dataset's speaker bank: a distractor's."""

    dataset: int  # number of the dataset in the plan
    row: int


VectorSource = ClipVector | BankVector  # where a registered speaker's vector is read


@dataclass(frozen=True, slots=True)
class Registration:
    """The registered speakers in prompt order, and the names that the target uses."""

    mode: Mode
    names: tuple[str, ...] = ()
    sources: tuple[VectorSource, ...] = ()
    target_names: dict[str, str] = field(default_factory=dict)  # speaker id of the clip → registered name


def draw_mode(shares: ModeShares, *key: object) -> Mode:
    """Draw by the shares of Match, No, Over. Equal ones are the paper's: u < 1/3 Match, u < 2/3 No, else Over."""
    match, no, over = shares.match, shares.no, shares.over
    u = keyed_uniform(*key, "mode") * (match + no + over)
    return Mode.MATCH if u < match else Mode.NO if u < match + no else Mode.OVER


def draw_registration(
    row: IndexRow,
    mode: Mode,
    config: RegistrationConfig,
    bank: DistractorBank | None,
    dataset: int,
    key: tuple[object, ...],
    n_ov: int | None = None,
    banned: Collection[int] = (),
) -> Registration:
    """Register the clip's speakers (Match), and distractors with them (Over), in random order.

    If there is no speaker to register (a clip without speech), the mode becomes No.

    Args:
        dataset: number of the dataset whose bank gives the distractors.
        key: key of the draw.
        n_ov: number of distractors; None draws it from U{1..max_distractors}. Never more than the bank can give.
        banned: rows of the bank that are never drawn.
    """
    if mode in (Mode.ASR, Mode.NO):
        return Registration(mode)
    rng = keyed_rng(*key, "registration")
    extra = _distractors(rng, row, bank, config.max_distractors, n_ov, banned) if mode is Mode.OVER else []
    sources: list[VectorSource] = [ClipVector(i) for i in range(len(row.speakers))]
    sources += [BankVector(dataset, r) for r in extra]
    if not sources:
        return Registration(Mode.NO)
    names = _names(rng, row, bank, extra, config)
    order = rng.permutation(len(sources)).tolist()
    return Registration(
        mode=mode,
        names=tuple(names[i] for i in order),
        sources=tuple(sources[i] for i in order),
        target_names=dict(zip(row.speakers, names, strict=False)),
    )


def _distractors(
    rng: np.random.Generator,
    row: IndexRow,
    bank: DistractorBank | None,
    most: int,
    n_ov: int | None,
    banned: Collection[int],
) -> list[int]:
    """Rows of the bank of people of other sessions who are surely not in the clip."""
    if bank is None:
        return []
    candidates = bank.candidates(row.speakers, (row.session,))
    if banned:
        candidates = candidates[~np.isin(candidates, list(banned))]
    if n_ov is None:
        limit = min(most, len(candidates))
        n_ov = int(rng.integers(1, limit + 1)) if limit else 0
    chosen = rng.choice(len(candidates), min(n_ov, len(candidates)), replace=False)
    return [int(candidates[i]) for i in chosen]


def _names(
    rng: np.random.Generator, row: IndexRow, bank: DistractorBank | None, extra: list[int], config: RegistrationConfig
) -> list[str]:
    """A name for each speaker of the clip, then for each distractor; all distinct."""
    if config.names == "pools":
        return pool_names(rng, config.name_pools, len(row.speakers) + len(extra))
    return corpus_names([*row.speakers, *(bank.ids[r] for r in extra if bank is not None)])
