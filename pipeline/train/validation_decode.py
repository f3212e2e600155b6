"""Decode and score a fixed set of clips during training.

Clips, names and distractors are those of ``speakerlm-decode``: a function of seed and key. If ZeRO-3 partitions the
model, there are two ways:

- **local**: the weights are gathered once, and each rank decodes its batches with a whole copy without waiting for
  other ranks. Every card must hold the copy in addition to the training state.
- **together**: the partitioned model generates; each token is a collective of all ranks, until the last of them has
  finished. Slow, but it needs no extra memory. A rank without a batch decodes a short placeholder prompt.

With ZeRO-2 or less every rank has the whole model.

Stages with dialogues hold a dialogue about each clip, as ``speakerlm-decode`` does but with few attempts. Ranks that
decode together hold theirs in lockstep (:mod:`pipeline.decode.lockstep`).
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint.format import write_atomic
from pipeline.checkpoint.saver import free_memory
from pipeline.checkpoint.training_state import is_partitioned, parameter_numel
from pipeline.data.keyed_random import keyed_uniform
from pipeline.decode.dialogues import small_dialogues
from pipeline.decode.jobs import DecodeJob, default_modes, jobs_of
from pipeline.decode.share import answered
from pipeline.decode.test_set import DecodeItem, clips_of, prompt_of
from pipeline.ranks.collectives import all_gather_or_raise, any_rank
from pipeline.ranks.launch import Ranks
from pipeline.recipe.schema import Recipe
from pipeline.train.decode_rates import rates
from shards.errors import DataError, StorageError

if TYPE_CHECKING:
    from pipeline.decode.dialogues import Dialogues
    from pipeline.prompts import Prompt, PromptTokenizer
    from shards.dataset.dataset import Dataset

logger = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
Asked = tuple[dict[str, Any], Any]  # a row without its answer, and its prompt
SPARE = 1.3  # memory for a local decode, times the size of the weights: key-value caches, activations
GATHERED = 64  # parameters that are whole at the same time while the copy is made


@dataclass(frozen=True)
class DecodeTask:
    """A clip and the mode to decode it in."""

    dataset: int
    job: DecodeJob
    clip: DecodeItem


class ValidationDecode:
    """Decodes and scores the same clips each time."""

    def __init__(
        self, recipe: Recipe, ranks: Ranks, engine: Any, datasets: Sequence[Dataset], tokenizer: PromptTokenizer
    ) -> None:
        self._recipe, self._ranks, self._engine = recipe, ranks, engine
        self._datasets, self._tokenizer = datasets, tokenizer
        self._folder = Path(recipe.output) / "decoded"
        self._batches = batches_of(decode_tasks(recipe, datasets), recipe.trainer.decode_batch)
        self._dialogues = small_dialogues(recipe)

    def run(self, step: int, stop: Callable[[], bool], beat: Callable[[str], None]) -> dict[str, Any] | None:
        """Return rates by mode, and over ``all`` of them; None if a stop was requested. Collective.

        Dialogues have no modes: their rates are those over ``all``.

        Transcripts are written to ``OUTPUT/decoded/step-…/MODE.jsonl``, which ``speakerlm-score`` reads.
        """
        from pipeline.evaluation.script import choose_profile

        rows: Rows = []
        faults: list[str] = []
        world, rank = self._ranks.world_size, self._ranks.rank
        began = time.perf_counter()

        def interrupt() -> bool:
            beat("validation decode")
            return stop()

        with self._model() as (model, synced):
            for first in range(0, len(self._batches), world):
                mine = self._batches[first + rank] if first + rank < len(self._batches) else []
                rows += self.decode_batch(model, mine, synced, faults, interrupt)
                if any_rank(self._ranks, stop()):
                    return None
        everyone = all_gather_or_raise(self._ranks, lambda: (rows, faults))
        rows = sorted((r for part, _ in everyone for r in part), key=lambda r: (r["mode"], r["key"]))
        skipped = [f for _, part in everyone for f in part]
        if skipped and self._ranks.is_first:
            logger.warning("validation decode skipped %d clips, first: %s", len(skipped), skipped[0])
        all_gather_or_raise(self._ranks, lambda: self._write(step, rows) if self._ranks.is_first else None)
        normaliser = self._recipe.trainer.decode_normaliser
        chosen, mismatch = choose_profile(normaliser, (turn["text"] for r in rows for turn in r["reference"]))
        if mismatch and self._ranks.is_first:
            logger.warning("validation decode: %s", mismatch.replace("--normaliser ", "trainer.decode_normaliser="))
        scores = rates(rows, chosen)
        way = "together" if synced else "local"
        logger.info("decoded %d answers (%s) in %.1f s", len(rows), way, time.perf_counter() - began)
        return scores

    def decode_batch(
        self, model: Any, batch: Sequence[DecodeTask], synced: bool, faults: list[str], interrupt: Callable[[], bool]
    ) -> Rows:
        """Decode one batch without its unreadable clips; if ranks decode together, a placeholder if no clip is left."""
        asked = []
        for q in batch:
            try:
                asked.append(prompt_of(self._datasets[q.dataset], q.clip.shard, q.clip.row, q.job, SEED, self._recipe))
            except StorageError:
                raise
            except DataError as e:
                faults.append(f"{q.clip.key}: {e}")
        if self._dialogues is not None:
            return self._hold(self._dialogues, model, asked, synced, faults, interrupt)
        return self._ask(model, asked, synced, interrupt)

    def _ask(self, model: Any, asked: Sequence[Asked], synced: bool, interrupt: Callable[[], bool]) -> Rows:
        """Answer the prompts of a batch."""
        from pipeline.decode.generate import ask
        from pipeline.model.stopping import Guards

        prompts = [prompt for _, prompt in asked]
        if synced and not prompts:
            prompts = [_stand_in()]
        guards = Guards(max_new_tokens=self._recipe.trainer.decode_tokens)
        answers = ask(model, self._tokenizer, prompts, guards, synced, interrupt)
        return [answered(row, answer) for (row, _), answer in zip(asked, answers, strict=False)]

    def _hold(
        self,
        dialogues: Dialogues,
        model: Any,
        asked: Sequence[Asked],
        synced: bool,
        faults: list[str],
        interrupt: Callable[[], bool],
    ) -> Rows:
        """Hold the dialogues of a batch; nothing comes of them after a stop request."""
        from pipeline.decode.lockstep import Lockstep, Stopped, Watched

        pad = self._tokenizer.pad
        calls = Lockstep(interrupt, self._ranks, model, pad) if synced else Watched(interrupt)
        rows: Rows = []
        try:
            try:
                if asked:
                    writer = dialogues.writer(model, self._tokenizer, calls)
                    rows = writer.write([row for row, _ in asked], [prompt for _, prompt in asked])
            except DataError as e:  # audio that the model cannot hear
                faults += [f"{row['key']}: {e}" for row, _ in asked]
            calls.finish()
        except Stopped:
            return []
        return rows

    @contextmanager
    def _model(self) -> Iterator[tuple[Any, bool]]:
        """Return the model to decode with, and whether all ranks must decode together. Collective."""
        model = self._engine.module
        if not any(is_partitioned(p) for p in model.parameters()):
            yield model, False
        elif self._ranks.world_size > 1 and not self._fits(model):
            yield model, True
        else:
            copy = whole_copy(model)
            yield copy, False
            del copy

    def _fits(self, model: Any) -> bool:
        """Return whether every rank has the memory for a copy, or the recipe says so."""
        how = self._recipe.trainer.decode_how
        if how != "auto":
            return how == "local"
        wanted = SPARE * sum(parameter_numel(p) * p.element_size() for p in model.parameters())
        places = all_gather_or_raise(self._ranks, lambda: (socket.gethostname(), _free(self._ranks)))
        hosts = [host for host, _ in places]
        on_cpu = self._ranks.device.type == "cpu"  # there ranks of a machine share its memory
        return all(free > wanted * (hosts.count(host) if on_cpu else 1) for host, free in places)

    def _write(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        folder = self._folder / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        for mode in sorted({r["mode"] for r in rows}):
            lines = [json.dumps(r, ensure_ascii=False) for r in rows if r["mode"] == mode]
            write_atomic(folder / f"{mode}.jsonl", "\n".join(lines) + "\n")


SEED = 1  # of names and distractors, as speakerlm-decode's


def decode_tasks(recipe: Recipe, datasets: Sequence[Dataset]) -> list[DecodeTask]:
    """Return ``decode_clips`` clips with speech, spread over the datasets, each in every mode of the stage."""
    wanted = recipe.trainer.decode_clips
    jobs = jobs_of(default_modes(recipe.stage), f"1-{recipe.data.registration.max_distractors}")
    chosen = []
    for number, dataset in enumerate(datasets):
        share = wanted // len(datasets) + (number < wanted % len(datasets))
        clips = sorted(_with_speech(dataset), key=lambda c: keyed_uniform("small decode", c.key))
        chosen += [DecodeTask(number, job, clip) for clip in clips[:share] for job in jobs]
    return chosen


def batches_of(asked: Sequence[DecodeTask], size: int) -> list[list[DecodeTask]]:
    """Form batches of one mode each, the longest clips first, so that ranks that decode together have similar work."""
    ordered = sorted(asked, key=lambda q: (q.job.name, -q.clip.samples, q.dataset, q.clip.key))
    batches: list[list[DecodeTask]] = []
    for q in ordered:
        if not batches or len(batches[-1]) == size or batches[-1][0].job != q.job:
            batches.append([])
        batches[-1].append(q)
    return sorted(batches, key=lambda b: -b[0].clip.samples)


def whole_copy(model: Any) -> Any:
    """Copy a ZeRO-3 model with whole weights, without DeepSpeed's hooks. Collective.

    At most :data:`GATHERED` parameters are gathered at a time.
    """
    import deepspeed
    import torch
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        copy = model.blank() if hasattr(model, "blank") else type(model)(model.config)
    named = list(model.named_parameters(remove_duplicate=False))
    made: dict[int, Any] = {}
    for first in range(0, len(named), GATHERED):
        part = [p for _, p in named[first : first + GATHERED] if id(p) not in made]
        with deepspeed.zero.GatheredParameters(part):
            for p in part:
                whole = p.detach().clone().to(model.device)
                made[id(p)] = torch.nn.Parameter(whole, requires_grad=False)
    for name, p in named:
        owner, _, leaf = name.rpartition(".")
        copy.get_submodule(owner)._parameters[leaf] = made[id(p)]
    for name, buffer in model.named_buffers():
        owner, _, leaf = name.rpartition(".")
        copy.get_submodule(owner)._buffers[leaf] = buffer
    return copy.eval()


def _with_speech(dataset: Dataset) -> list[DecodeItem]:
    """Return the clips with speech: only they have a reference."""
    speaking = [dataset.index(shard).column("speakers").to_pylist() for shard in range(len(dataset.shards))]
    return [c for c in clips_of(dataset) if speaking[c.shard][c.row]]


def _stand_in() -> Prompt:
    """Return the prompt of a rank without a batch: half a second of silence."""
    import numpy as np

    from pipeline.prompts import Mode, Prompt, prompt_pieces
    from shards.sample import SAMPLE_RATE

    return Prompt(tuple(prompt_pieces(Mode.ASR)), np.zeros(SAMPLE_RATE // 2, np.float32))


def _free(ranks: Ranks) -> float:
    """Return the bytes free for a copy on this rank. GPU memory that torch has reserved but does not use is free."""
    if ranks.device.type == "cpu":
        return float(free_memory())
    import torch

    torch.cuda.empty_cache()
    return float(torch.cuda.mem_get_info()[0])
