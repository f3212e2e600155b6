"""Training data of the corrector: pairs of a cascade's transcript and its correction.

An epoch takes every pair once: in an order keyed by seed and epoch they are filled into micro-batches of at most
``data.max_positions``, and every M micro-batches, over the ends of epochs, make a global step. This does not depend on
ranks: rank r of N takes micro-batches r, r + N, … A state names the epoch and the place in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.keyed_random import keyed_rng
from pipeline.data.packing import pack
from pipeline.prompts import Mode, PromptTokenizer, chat_ids
from pipeline.ranks.launch import Ranks
from pipeline.recipe.schema import AugmentConfig, DatasetConfig, Recipe
from shards.errors import ConfigError, DataError, PlanError
from shards.workers import progress

NAME = "pairs"  # in logs


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its answer, as token ids."""

    key: str
    prompt: tuple[int, ...]
    target: tuple[int, ...]  # ended by the end-of-turn token
    frames: int = 1  # packing's second budget, which is of audio

    @property
    def positions(self) -> int:
        """LLM positions."""
        return len(self.prompt) + len(self.target)


@dataclass(frozen=True)
class TextBatch:
    """A micro-batch of L positions, B pairs and T targets, packed."""

    input_ids: Tensor  # int64 (L,)
    position_ids: Tensor  # int64 (L,), from 0 in every pair
    cu_seqlens: Tensor  # int32 (B + 1,), stays on the host
    target_index: Tensor  # int64 (T,), positions whose output predicts a target
    target_ids: Tensor  # int64 (T,)
    keys: tuple[str, ...]
    weight: float = 1.0  # 0.0: an empty micro-batch, run for its calls alone
    mode: Mode = Mode.NO
    dataset: str = NAME
    audio_seconds: float = 0.0

    @property
    def num_targets(self) -> int:
        """Target tokens that count in the loss of the step."""
        return len(self.target_ids) if self.weight else 0

    @property
    def num_positions(self) -> int:
        """LLM positions that come from the data."""
        return len(self.input_ids) if self.weight else 0

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TextBatch:
        """The same on another device."""
        names = ("input_ids", "position_ids", "target_index", "target_ids")
        return replace(self, **{n: getattr(self, n).to(device, non_blocking=non_blocking) for n in names})

    def model_inputs(self) -> dict[str, Any]:
        """Arguments of the model's forward."""
        names = ("input_ids", "position_ids", "cu_seqlens", "target_index", "target_ids", "weight")
        return {n: getattr(self, n) for n in names}


@dataclass(frozen=True)
class TextStep:
    """This rank's share of a global step."""

    micro_batches: list[TextBatch]
    state: dict[str, Any] = field(repr=False)  # to continue after this step
    figures: dict[str, Any] = field(default_factory=dict)  # of the whole step


class PairData:
    """A run's pairs, as the trainer asks for them."""

    tokenizer: PromptTokenizer
    validation_sets: Sequence[Any] = ()

    def __init__(self, recipe: Recipe, ranks: Ranks, tokenizer: PromptTokenizer, _meter: object = None) -> None:
        """Read and tokenise all pairs.

        Raises:
            ConfigError: a setting that is about audio.
            DataError: a file cannot be read, or is not of the form that ``speakerlm-baseline pairs`` writes.
            PlanError: a pair is larger than a micro-batch.
        """
        _check(recipe)
        self._recipe, self._ranks, self.tokenizer = recipe, ranks, tokenizer
        train, held_out = ([Path(d.path) for d in sets] for sets in (recipe.data.train, recipe.data.validation))
        self._train, self._validation = self._read(train), self._read(held_out)
        self.train_names, self.validation_names = (NAME,), (NAME,) if self._validation else ()
        self._identity = self._made_of(train)

    def train(self, state: dict[str, Any] | None) -> Iterator[TextStep]:
        """Global steps without end.

        Raises:
            PlanError: the state is of other pairs, or of settings that make other micro-batches.
        """
        if state and (changed := [k for k, v in self._identity.items() if state["made_of"].get(k) != v]):
            raise PlanError(
                f"the place in the pairs cannot be resumed: {', '.join(changed)} changed. Restore it, or start a new "
                "run (another output)"
            )
        epoch, place = (state["epoch"], state["place"]) if state else (0, 0)
        batches = self._epoch(self._train, epoch)
        while True:
            taken: list[list[Pair]] = []
            while len(taken) < self._recipe.data.micro_batches_per_step:
                if place == len(batches):
                    epoch, place = epoch + 1, 0
                    batches = self._epoch(self._train, epoch)
                taken.append(batches[place])
                place += 1
            where = {"made_of": self._identity, "epoch": epoch, "place": place}
            yield TextStep(self._mine(taken), where, {"epoch": epoch, "pairs": sum(map(len, taken))})

    def merged_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state is the same on every rank."""
        return state

    def validation(self) -> Iterator[tuple[Sequence[TextBatch], int]]:
        """The first ``validation_batches`` micro-batches of an order that does not change; 0 samples are replaced."""
        size = self._recipe.data.micro_batches_per_step
        batches = self._epoch(self._validation, 0)[: self._recipe.trainer.validation_batches]
        return ((self._mine(batches[i : i + size]), 0) for i in range(0, len(batches), size))

    def _epoch(self, pairs: Sequence[Pair], epoch: int) -> list[list[Pair]]:
        rng = keyed_rng(self._recipe.seed, NAME, epoch)
        room = self._recipe.data.max_positions
        full, rest = pack(pairs, room, room, rng)
        packed = full + rest
        return [packed[i] for i in rng.permutation(len(packed)).tolist()]

    def _mine(self, taken: Sequence[Sequence[Pair]]) -> list[TextBatch]:
        """This rank's micro-batches of a step; every rank gets as many."""
        rank, world = self._ranks.rank, self._ranks.world_size
        rounds = -(-self._recipe.data.micro_batches_per_step // world)
        places = [i * world + rank for i in range(rounds)]
        nothing = [Pair("", (self.tokenizer.eos,), (self.tokenizer.eos,))]
        return [collate(taken[m]) if m < len(taken) else replace(collate(nothing), weight=0.0) for m in places]

    def _read(self, paths: Sequence[Path]) -> list[Pair]:
        pairs: list[Pair] = []
        for path in paths:
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as e:
                raise DataError(f"{path}: {e}; `speakerlm-baseline pairs` writes such files") from e
            for n, line in enumerate(progress(lines, f"reading {path.name}", unit="pair", delay=2), 1):
                pair = self._pair(line, f"{path}, line {n}")
                if pair.positions > self._recipe.data.max_positions:
                    raise PlanError(
                        f"{path}, line {n} ({pair.key}) has {pair.positions} positions, data.max_positions is "
                        f"{self._recipe.data.max_positions}: raise it, or remove the line"
                    )
                pairs.append(pair)
        if paths and not pairs:
            raise DataError(f"{', '.join(map(str, paths))}: no pairs")
        return pairs

    def _pair(self, line: str, where: str) -> Pair:
        try:
            row = json.loads(line)
            *asked, answer = row["messages"]
            prompt = chat_ids(self.tokenizer.tokenizer, asked)
            target = (*self.tokenizer.encode_piece(answer["content"]), self.tokenizer.eos)
            return Pair(str(row.get("key", where)), tuple(prompt), target)
        except (ValueError, KeyError, TypeError) as e:
            raise DataError(f'{where}: not {{"key": …, "messages": [system, user, assistant]}} ({e!r})') from e

    def _made_of(self, paths: Sequence[Path]) -> dict[str, Any]:
        digest = hashlib.sha256()
        for path in paths:
            digest.update(path.read_bytes())
        data = self._recipe.data
        return {
            "data.train": digest.hexdigest(),
            "tokenizer": self.tokenizer.hash,
            "seed": self._recipe.seed,
            "data.max_positions": data.max_positions,
            "data.micro_batches_per_step": data.micro_batches_per_step,
        }


def collate(pairs: Sequence[Pair]) -> TextBatch:
    """Pack pairs into one row."""
    ends = list(accumulate(p.positions for p in pairs))
    ids = torch.tensor([i for p in pairs for i in (*p.prompt, *p.target)], dtype=torch.int64)
    places = torch.cat([torch.arange(p.positions) for p in pairs])
    targets = torch.tensor([i for p, end in zip(pairs, ends, strict=True) for i in range(end - len(p.target), end)])
    bounds = torch.tensor([0, *ends], dtype=torch.int32)
    return TextBatch(ids, places, bounds, targets - 1, ids[targets], tuple(p.key for p in pairs))


def _check(recipe: Recipe) -> None:
    """Refuse settings that this data would silently ignore."""
    data = recipe.data
    odd = [f"data.*[{d.path}]" for d in (*data.train, *data.validation) if d != DatasetConfig(path=d.path)]
    odd += ["data.augment"] if data.augment != AugmentConfig() else []
    odd += [f"data.{n}" for n in ("curriculum", "align_epochs", "speaker_questions") if getattr(data, n)]
    odd += ["trainer.decode_clips"] if recipe.trainer.decode_clips else []
    if odd:
        raise ConfigError(f"{recipe.name}: stage 0 reads files of pairs by their path alone; remove {', '.join(odd)}")
