"""Check paths, packages and devices before a run starts; each check says what it found and what to do."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.recipe.schema import Recipe
from pipeline.stages import STAGES, Base
from shards.errors import SpeakerLMError

VERSIONS = {  # tested or documented range; an older version than the first is an error
    "torch": ("2.11", "2.13"),
    "deepspeed": ("0.19", "0.19"),
    "transformers": ("5.17", "5.23"),
    "peft": ("0.19", "0.21"),
}
EXPORTED = ("config.json", "tokenizer_config.json", "*.safetensors")  # files of an LLM and an encoder in one
CHECKPOINTS_KEPT = 2  # in addition to trainer.keep_last: one being written, and the final weights


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    verdict: str  # ok, note, FAIL
    what: str
    found: str

    def row(self) -> dict[str, str]:
        """As plain data."""
        return {"verdict": self.verdict, "what": self.what, "found": self.found}


def all_checks(recipe: Recipe, trained: int, tokenizer_hash: str | None, world_gpus: int) -> list[Check]:
    """Run every check, also after one that fails.

    Args:
        trained: number of trained parameters, for the size of checkpoints.
        tokenizer_hash: None if the tokenizer is not on this machine.
        world_gpus: expected cards per node.
    """
    makers: list[Callable[[], Iterator[Check]]] = [
        _versions,
        lambda: _devices(world_gpus),
        lambda: _checkpoints(recipe),
        lambda: _start(recipe),
        lambda: _disk(recipe, trained),
        lambda: _datasets(recipe, tokenizer_hash),
    ]
    out: list[Check] = []
    for make in makers:
        try:
            out += make()
        except SpeakerLMError as e:
            out.append(Check("FAIL", type(e).__name__, str(e)))
    return out


def _versions() -> Iterator[Check]:
    for name, (oldest, newest) in VERSIONS.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check("FAIL", name, f"is not installed; the pinned version is in constraints.txt ({newest})")
            continue
        key = _numbers(found)
        if key < _numbers(oldest):
            yield Check("FAIL", name, f"{found} is older than {oldest}, which is the oldest that can work")
        elif key[:2] > _numbers(newest):
            yield Check("note", name, f"{found} is newer than {newest}, which the tests ran with")
        else:
            yield Check("ok", name, found)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+", maxsplit=1)[0].split(".")[:3] if part.isdigit())


def _devices(wanted: int) -> Iterator[Check]:
    import torch

    from pipeline.cards import this_card
    from pipeline.model.packed_attention import choose

    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        yield Check("note", "CUDA", f"no card here ({built}): cards, NCCL and driver are not checked")
        return
    found = torch.cuda.device_count()
    free, total = torch.cuda.mem_get_info()
    name = f"{found} × {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {free / 2**30:.1f} of "
    yield Check("ok" if found >= wanted else "FAIL", "CUDA", f"{name}{total / 2**30:.1f} GiB free; {wanted} wanted")
    if this_card() is None:
        yield Check("note", "card", "is not in pipeline/cards.py: MFU is not reported")
    if torch.distributed.is_nccl_available():
        nccl: Any = torch.cuda.nccl
        yield Check("ok", "NCCL", ".".join(map(str, nccl.version())))
    else:
        yield Check("FAIL", "NCCL", "this torch has none: install a CUDA build of torch")
    kernel = choose("cuda", torch.bfloat16)
    yield Check("ok" if kernel in ("flash_attn", "torch_varlen") else "note", "packed attention", kernel)


def _checkpoints(recipe: Recipe) -> Iterator[Check]:
    from pipeline.model.exported import is_exported

    encoder, llm = recipe.model.encoder, recipe.model.llm
    files: tuple[str, ...] = ("config.json", "tokenizer_config.json", "*.safetensors or *.bin")
    hears = recipe.model.base != Base.SPEAKERLM  # a thinker, with an encoder of its own
    folders = [("thinker" if hears else "LLM", llm.checkpoint, llm.hub, files)]
    if encoder.checkpoint and not hears:
        from pipeline.model.encoder_interface import find_encoder

        files = find_encoder(encoder.type).FILES
        folders.append(("encoder", encoder.checkpoint, encoder.hub, files))
    for what, name, hub, files in folders:
        folder = Path(name)
        if not folder.is_dir():
            looks_like_id = name.count("/") == 1 and not name.startswith((".", "/"))
            verdict = "note" if looks_like_id else "FAIL"
            yield Check(verdict, what, f"{name}: no such folder" + (f"; it will be asked of {hub}" * looks_like_id))
            continue
        wanted = EXPORTED if is_exported(folder) else files
        missing = [f for f in wanted if not any(p for pattern in f.split(" or ") for p in folder.glob(pattern))]
        yield Check("FAIL" if missing else "ok", what, f"{name}" + (f": {', '.join(missing)} missing" * bool(missing)))


def _start(recipe: Recipe) -> Iterator[Check]:
    from pipeline.checkpoint.final_weights import read_done
    from pipeline.model.exported import model_type
    from pipeline.train.starting_point import RUN, inspect
    from shards.weights.hubs import hub_name

    if recipe.init_from is None:
        yield Check("ok", "starts from", "public checkpoints")
        return
    if hub_name(recipe.init_from):
        yield Check("note", "starts from", f"{recipe.init_from}: no such folder; it will be asked of huggingface")
        return
    folder, parts = Path(recipe.init_from), (recipe.model.llm.checkpoint, recipe.model.encoder.checkpoint)
    if model_type(folder) and (elsewhere := [p for p in parts if p and not Path(p).is_dir()]):
        yield Check("note", "starts from", f"{folder}; not compared with {', '.join(elsewhere)}, not on this machine")
        return
    start = inspect(recipe, folder)
    if start.kind != RUN or start.sha256 is None:
        yield Check("ok", "starts from", f"{folder}, {start.kind}")
        return
    done = read_done(folder)
    yield Check("ok", "starts from", f"{folder}, stage {done.get('stage')} at step {done.get('step')}")


def _disk(recipe: Recipe, trained: int) -> Iterator[Check]:
    """Space for checkpoints: three fp32 numbers a trained parameter each."""
    if recipe.output.startswith("s3://"):
        yield Check("FAIL", "output", f"{recipe.output}: runs are written to a file system, not to object storage")
        return
    folder = Path(recipe.output).absolute()
    there = next(p for p in (folder, *folder.parents) if p.exists())
    writable = os.access(there, os.W_OK)
    yield Check("ok" if writable else "FAIL", "output", f"{recipe.output}" + (" cannot be written to" * (not writable)))
    needed = 12 * trained * (recipe.trainer.keep_last + CHECKPOINTS_KEPT)
    free = shutil.disk_usage(there).free
    said = f"{free / 2**30:,.1f} GiB free, checkpoints take up to {needed / 2**30:,.1f}"
    yield Check("ok" if free > needed else "FAIL", "disk", said)


def _datasets(recipe: Recipe, tokenizer_hash: str | None) -> Iterator[Check]:
    """Every dataset can be opened, its first shard read, and its token lengths are there."""
    from pipeline.data.lengths import missing_lengths
    from shards.dataset.dataset import open_dataset

    for share in [*recipe.data.train, *recipe.data.validation]:
        try:
            dataset = open_dataset(share.path, share.extractor)
            first = dataset.shards[0]
            dataset.storage.read_range(f"shards/{first.name}.tar", 0, 512)
            made_with, bank = dataset.extractor_id(), dataset.speakers
        except (SpeakerLMError, IndexError) as e:
            yield Check("FAIL", "dataset", f"{share.path}: {e or 'holds no shard'}")
            continue
        hours = sum(s.seconds for s in dataset.shards) / 3600
        said = f"{share.path}: {hours:,.2f} h in {len(dataset.shards)} shards"
        reads = recipe.model.base == Base.SPEAKERLM
        if reads and made_with is not None and made_with != recipe.model.extractor:
            yield Check("FAIL", "dataset", f"{said}; its vectors are of {made_with}, not {recipe.model.extractor}")
        elif STAGES[recipe.stage].registration and bank is None:
            yield Check("FAIL", "dataset", f"{said}; it has no speaker bank, and this stage registers speakers")
        else:
            yield Check("ok", "dataset", said)
        if tokenizer_hash is None:
            continue
        missing = missing_lengths(dataset, tokenizer_hash)
        if missing:
            yield Check("note", "token lengths", f"{share.path}: {len(missing)} shards lack them; the run counts them")
