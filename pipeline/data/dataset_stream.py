"""The micro-batches of one dataset, epoch after epoch."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import numpy as np

from pipeline.data.augment import draw_speed
from pipeline.data.context import draw_context
from pipeline.data.dialogue_plan import draw_cache, draw_task, plan_dialogue
from pipeline.data.index_rows import IndexRow, PlanSource, Selection, read_exclude_list
from pipeline.data.keyed_random import keyed_rng, keyed_seed
from pipeline.data.packing import pack
from pipeline.data.planned import CachedClip, MicroBatch, PlannedSample, PlanSettings
from pipeline.data.registration import draw_mode, draw_registration
from pipeline.data.slices import pack_dialogues
from pipeline.data.token_counter import TokenCounter
from pipeline.encoder_calls import computed_frames
from pipeline.frames import audio_positions, encoder_frames, padded_frames, perturbed_samples
from pipeline.prompts import Mode, mode_of
from pipeline.recipe.schema import DatasetConfig
from pipeline.stages import Task
from shards.errors import PlanError

SPARES = 3


class Stream:
    """The micro-batches of one dataset, epoch after epoch."""

    def __init__(
        self, number: int, source: PlanSource, share: DatasetConfig, settings: PlanSettings, counter: TokenCounter
    ) -> None:
        exclude = read_exclude_list(share.exclude) if share.exclude else frozenset()
        self.number = number
        self.source = source
        self.share = share
        self.max_seconds: float | None = None  # of the window that is open
        self.selection = Selection(source, settings.seed, share.hours, exclude)
        self._banned = self.selection.banned()
        self.epoch = self.window = self.position = 0
        self.carried: tuple[PlannedSample, ...] = ()
        self._settings = settings
        self._counter = counter
        self._ready: tuple[list[MicroBatch], tuple[PlannedSample, ...]] | None = None
        self._order: tuple[int, list[int]] | None = None
        self._shard_terms = lru_cache(maxsize=8)(self._terms_of)
        self._empty_epoch = True  # so far, since its first window

    @property
    def done(self) -> bool:
        """True after the last epoch of a finite plan."""
        last = [n for n in (self._settings.epochs, self.share.epochs) if n is not None]
        return bool(last) and self.epoch >= min(last)

    @property
    def between_epochs(self) -> bool:
        """True before the first micro-batch of an epoch."""
        return self.window == self.position == 0

    def next(self, max_seconds: float | None = None) -> MicroBatch | None:
        """The next micro-batch; None when done. A window that begins now skips samples longer than ``max_seconds``."""
        while not self.done:
            if self.position == 0 and max_seconds != self.max_seconds:
                self.max_seconds, self._ready = max_seconds, None
            ready, carried = self._ready = self._ready or self._plan_window()
            batch = ready[self.position] if self.position < len(ready) else None  # None: all of the window is carried
            self._empty_epoch &= batch is None
            self.position += 1
            if self.position >= len(ready):
                self._advance(carried)
            if batch is not None:
                return batch
        return None

    def skip_empty(self, max_seconds: float | None) -> None:
        """Between windows: skip empty windows of this epoch, so that its end is not detected too late."""
        while self.position == 0 and not self.between_epochs:
            self.max_seconds = max_seconds
            ready, carried = self._ready = self._plan_window()
            if ready:
                return
            self._advance(carried)

    def state_dict(self) -> dict[str, Any]:
        """Position of the stream, as JSON."""
        carried = [[p.shard, p.row, p.key, str(p.mode)] for p in self.carried]
        where = {"epoch": self.epoch, "window": self.window, "position": self.position}
        return where | {"max_seconds": self.max_seconds, "carried": carried}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved position. The window is planned again for the next micro-batch."""
        self.epoch, self.window, self.position = state["epoch"], state["window"], state["position"]
        self.max_seconds = state["max_seconds"]
        self._ready, self._empty_epoch = None, False
        rows = {shard: self.source.rows(shard) for shard in sorted({c[0] for c in state["carried"]})}
        for shard, row, key, _ in state["carried"]:
            if row >= len(rows[shard]) or rows[shard][row].key != key:
                raise PlanError(
                    f"{self.source.name}: the state carries {key!r}, which is not row {row} of shard {shard}"
                )
        self.carried = tuple(self._planned(rows[shard][row], mode_of(mode)) for shard, row, _, mode in state["carried"])

    def _advance(self, carried: tuple[PlannedSample, ...]) -> None:
        """Move to the next window, or the next epoch."""
        self._ready, self.position, self.carried = None, 0, carried
        self.window += 1
        if self.window >= self._windows:
            if self._empty_epoch:
                raise PlanError(
                    f"dataset {self.source.name} has no sample, or none outside its exclude list and hours and within "
                    "data.curriculum's max_seconds"
                )
            self.epoch, self.window, self._empty_epoch = self.epoch + 1, 0, True

    @property
    def _windows(self) -> int:
        return max(1, -(-len(self.selection.shards) // self._settings.data.window_shards))

    def _window_shards(self) -> list[int]:
        if self._order is None or self._order[0] != self.epoch:
            order = keyed_rng(self._settings.seed, "shards", self.source.name, self.epoch)
            self._order = self.epoch, order.permutation(self.selection.shards).tolist()
        size = self._settings.data.window_shards
        return self._order[1][self.window * size : (self.window + 1) * size]

    def _plan_window(self) -> tuple[list[MicroBatch], tuple[PlannedSample, ...]]:
        """Micro-batches of this window in their order, and the samples to carry into the next."""
        settings, pool = self._settings, list(self.carried)
        for shard in self._window_shards():
            for row in self.selection.rows(shard):
                if self.max_seconds is not None and row.seconds > self.max_seconds:
                    continue
                pool += [self._planned(row, mode) for mode in self._modes(row)]
        rng = keyed_rng(self._settings.seed, "window", self.source.name, self.epoch, self.window)
        packed: list[list[PlannedSample]] = []
        carried: list[PlannedSample] = []
        last = self.window + 1 >= self._windows
        for mode in settings.tasks or Mode:
            full, rest = self._pack([p for p in pool if p.mode is mode], rng)
            packed += full + (rest if last else [])
            carried += [] if last else [p for samples in rest for p in samples]
        order = rng.permutation(len(packed)).tolist()
        return self._with_spares([packed[i] for i in order]), tuple(carried)

    def _pack(
        self, samples: list[PlannedSample], rng: np.random.Generator
    ) -> tuple[list[list[PlannedSample]], list[list[PlannedSample]]]:
        data, multiple = self._settings.data, self._settings.frame_multiple
        if self._settings.tasks:
            calls = data.encoder_calls
            return pack_dialogues(samples, data.max_positions, data.max_frames, rng, calls, multiple)
        return pack(samples, data.max_positions, data.max_frames, rng, multiple)

    def _with_spares(self, packed: list[list[PlannedSample]]) -> list[MicroBatch]:
        """Spares are the shortest samples of the window's next micro-batch of the same mode (of itself, if alone)."""
        batches: list[MicroBatch] = []
        following: dict[Mode | Task, list[PlannedSample]] = {}
        for samples in [*reversed(packed), *reversed(packed)]:  # twice round, so that the last is followed by the first
            mode = samples[0].mode
            spares = sorted(following.get(mode, []), key=lambda p: (p.positions, p.key))[:SPARES]
            batches.append(MicroBatch(self.number, mode, tuple(samples), tuple(spares)))
            following[mode] = samples
        return batches[len(packed) :][::-1]

    def _modes(self, row: IndexRow) -> tuple[Mode | Task, ...]:
        if self._settings.modes is not None:
            return self._settings.modes
        if self._settings.tasks:
            return (draw_task(self._settings.tasks, self._settings.data.dialogue.tasks, *self._key(row)),)
        if not self._settings.registration:
            return (Mode.ASR,)
        return (draw_mode(self._settings.data.registration.mode_shares, *self._key(row)),)

    def _key(self, row: IndexRow) -> tuple[object, ...]:
        return self._settings.seed, self.epoch, self.source.name, row.key

    def _planned(self, row: IndexRow, mode: Mode | Task) -> PlannedSample:
        """Draw what a sample's mode leaves open for this epoch, and count its cost.

        Raises:
            PlanError: it does not fit an empty micro-batch, or is shorter than one frame.
        """
        return self._planned_dialogue(row, mode) if isinstance(mode, Task) else self._planned_prompt(row, mode)

    def _planned_dialogue(self, row: IndexRow, task: Task) -> PlannedSample:
        """Draw the entries of a speaker cache, and count the dialogue."""
        s, key = self._settings, self._key(row)
        assert row.facts is not None
        start = row.facts.start
        cached: tuple[CachedClip, ...] = ()
        if s.cache:
            earlier = partial(self.source.earlier, row.session, start)
            cached = draw_cache(earlier, s.data.dialogue.cache, self.selection.exclude, key)
        rows = {clip.key: self.source.rows(clip.shard)[clip.row] for clip in cached}
        frame = self._counter.frame(row.num_samples, s.stride)
        cost = plan_dialogue(row, task, s.data.dialogue, cached, rows, self._counter.text, frame)
        frames = sum(encoder_frames(n) for n in cost.slices)
        needed = computed_frames([encoder_frames(n) for n in cost.slices], s.data.encoder_calls, s.frame_multiple)
        self._check(row, task, 0, cost.positions, needed)
        return PlannedSample(
            dataset=self.number,
            shard=row.shard,
            row=row.row,
            key=row.key,
            session=row.session,
            epoch=self.epoch,
            mode=task,
            names=(),
            sources=(),
            target_names={},
            positions=cost.positions,
            frames=frames,
            targets=cost.targets,
            num_samples=row.num_samples,
            speed=1.0,
            seed=keyed_seed(*key, "augmentation"),
            language=row.language,
            slices=cost.slices,
            cached=cached,
        )

    def _planned_prompt(self, row: IndexRow, mode: Mode) -> PlannedSample:
        """Draw a sample's registration and speed, and count its prompt and target."""
        s = self._settings
        drawn = draw_registration(
            row, mode, s.data.registration, self.source.bank, self.number, self._key(row), s.n_ov, self._banned
        )
        speed = draw_speed(s.data.augment.speeds, *self._key(row))
        num_samples = perturbed_samples(row.num_samples, speed)
        frames = encoder_frames(num_samples)
        targets = self._counter.target(drawn.mode, row, drawn.target_names)
        context: tuple[str, ...] = ()
        if s.data.context.share:
            context = draw_context(row.terms, self._shard_terms(row.shard), s.data.context, self._key(row))
        prompt = self._counter.prompt(drawn.mode, drawn.names, audio_positions(num_samples, s.stride), context)
        self._check(row, drawn.mode, len(drawn.names), prompt + targets, frames)
        return PlannedSample(
            dataset=self.number,
            shard=row.shard,
            row=row.row,
            key=row.key,
            session=row.session,
            epoch=self.epoch,
            mode=drawn.mode,
            names=drawn.names,
            sources=drawn.sources,
            target_names=drawn.target_names,
            positions=prompt + targets,
            frames=frames,
            targets=targets,
            num_samples=num_samples,
            speed=speed,
            seed=keyed_seed(*self._key(row), "augmentation"),
            language=row.language,
            context=context,
        )

    def _terms_of(self, shard: int) -> tuple[str, ...]:
        """Distinct terms of the samples of a shard that belong to the run: distractors are drawn from them."""
        return tuple(dict.fromkeys(term for row in self.selection.rows(shard) for term in row.terms))

    def _check(self, row: IndexRow, mode: Mode | Task, registered: int, positions: int, frames: int) -> None:
        data = self._settings.data
        where = f"{self.source.name}: sample {row.key} ({row.seconds:.1f} s, mode {mode}, {registered} registered)"
        if frames == 0:
            raise PlanError(f"{where} is shorter than one 25 ms frame; pack the data without it or exclude its key")
        if positions > data.max_positions or padded_frames(frames, self._settings.frame_multiple) > data.max_frames:
            fewer = "register fewer distractors (data.registration.max_distractors)"
            if data.context.share:
                fewer += ", name fewer terms (data.context)"
            if isinstance(mode, Task):
                fewer = "allow fewer turns (data.dialogue.max_turns) or less cache (data.dialogue.cache.total_seconds)"
            raise PlanError(
                f"{where} needs {positions} positions and {frames} encoder frames; a micro-batch has "
                f"data.max_positions {data.max_positions} and data.max_frames {data.max_frames}. Raise the budget, "
                f"{fewer}, or exclude the key"
            )
