"""Decode a packed test set with a finished run: one JSON line per clip, scored later by speakerlm-score.

``OUT/{mode}.jsonl`` holds the model's text, how it ended, and the reference. The voices registered under each name are
a pure function of (seed, clip key), so two models get the same prompts. Batches are formed before they are divided
among processes, so any number of processes writes the same text: ``torchrun``, ``srun`` or plain ``python`` starts
them, each holds a whole model, and none waits for another. A decoded batch is not decoded again: an interrupted run
continues with any number of processes, and refuses another model, dataset, seed or batch size.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.decode.clip_terms import HELP as CLIP_CONTEXT_HELP
from pipeline.decode.clip_terms import OPTION as CLIP_CONTEXT
from pipeline.decode.clip_terms import ClipTerms
from pipeline.decode.context_line import HELP as CONTEXT_HELP
from pipeline.decode.context_line import read_terms, require_context
from pipeline.decode.dialogues import Dialogues, dialogues_of
from pipeline.decode.engine import ENGINES, QUANTIZE, QUANTIZE_HELP
from pipeline.decode.jobs import DecodeJob, default_modes, jobs_of
from pipeline.decode.load_engine import load_engine, load_for_dialogues
from pipeline.decode.share import Answers, Share, Writer, decode_share
from pipeline.decode.store import DecodeFolder, DecodeLabels, DecodeSettings, Timing
from pipeline.model.stopping import Guards
from pipeline.ranks.launch import launcher_environment
from pipeline.reasoner.loop import LoopLimits
from shards.arguments import natural, positive
from shards.commands import outcome
from shards.commands.parser import Parser
from shards.errors import ConfigError, DataError, SpeakerLMError
from shards.sample import Segment

logger = logging.getLogger(__name__)

PERMUTED = " (vectors permuted)"  # suffix of the name of a test set that was decoded as a control


@dataclass(frozen=True, slots=True)
class DecodeItem:
    """Position of a clip in the dataset."""

    key: str
    shard: int
    row: int
    samples: int


@dataclass(frozen=True)
class DecodeOptions:
    """Options of a decoding; of those that the text depends on, a later part of it must have the same."""

    modes: str = "auto"  # as ``asr,no,over``; auto: what the stage was trained for
    n_ov: str = "1-50"  # range of distractors of Over-Regist, see :func:`jobs_of`
    batch: int = 8  # clips decoded together
    seed: int = 1
    device: str = "auto"
    max_new_tokens: int | None = None  # of any answer; None: 1,024, in a dialogue 8,192; less for short audio
    limit: int | None = None  # only the first clips by key
    permute_vectors: bool = False  # a control: every name gets the vector of the next one; saCER has to rise, not CER
    # Name of the speaker vectors that ``embed`` wrote; None: those of the packing, or, if the model was trained with
    # other vectors, those of its training data.
    extractor: str | None = None
    task: str = "auto"  # of a Speaker-Reasoner run: reason, single, or auto: what its stage was trained for
    attempts: int = 50  # at a reply of a dialogue
    engine: str = "transformers"  # of ``pipeline.decode.engine.ENGINES``
    quantize: str | None = None  # of ``pipeline.decode.engine.QUANTIZE``
    context: str | None = None  # terms of every prompt's line of context, or a file of them
    clip_context: Path | None = None  # file of further terms by clip

    @property
    def guards(self) -> Guards:
        """Bounds of an answer."""
        return Guards(max_new_tokens=self.max_new_tokens or 1024)

    def dialogues(self, recipe: Any) -> Dialogues | None:
        """Return the dialogues of a Speaker-Reasoner run; None for a run of SpeakerLM.

        Raises:
            ConfigError: options that the run's dialogues do not have.
        """
        limits = LoopLimits(self.attempts, max_new_tokens=self.max_new_tokens or 8192, batch=self.batch)
        found = dialogues_of(recipe, self.task, limits)
        if found is None:
            return None
        if self.engine != "transformers":
            stage = f"dialogues of stage {recipe.stage}"
            raise ConfigError(f"--engine {self.engine}: {stage} are for the engine transformers")
        if self.quantize:
            raise ConfigError(f"--quantize is for stages 1 to 4, the run is of stage {recipe.stage}")
        found.check([job.mode for job in self.jobs(recipe.stage)])
        return found

    def terms(self, run: Path) -> ClipTerms:
        """Return the terms of prompts.

        Raises:
            ConfigError: a file that cannot be used, or a run that was not trained with terms.
        """
        general = read_terms(self.context)
        require_context(run, bool(general))
        require_context(run, self.clip_context is not None, CLIP_CONTEXT)
        return ClipTerms.read(general, self.clip_context)

    def jobs(self, stage: int) -> list[DecodeJob]:
        """Return the jobs of a run of a stage.

        Raises:
            ConfigError: an unknown mode, or an invalid range.
        """
        return jobs_of(self.modes if self.modes != "auto" else default_modes(stage), self.n_ov)


def decode(
    run: Path,
    dataset_url: str,
    out: Path,
    options: DecodeOptions | None = None,
    rank: int = 0,
    world: int = 1,
) -> dict[str, Timing] | None:
    """Decode this process's share of a dataset with a finished run.

    Args:
        rank: of this process, of `world`.

    Returns:
        Timing by job, of all processes, if this one ended last; None while others are still decoding.

    Raises:
        ScoreError: ``out`` holds output of other settings.
        ConfigError: modes or a task that the run was not trained for.
        ModelError, DataError, StorageError: run or dataset cannot be used.
    """
    from pipeline.checkpoint.final_weights import read_done
    from pipeline.decode.generate import choose_device
    from pipeline.recipe.load import load_recipe
    from pipeline.stages import check_speech

    options = options or DecodeOptions()
    weights = str(read_done(run)["weights_sha256"])
    recipe = load_recipe(run / "config.yaml")
    check_speech(recipe.stage, str(run))
    terms = options.terms(run)
    jobs, dialogues = options.jobs(recipe.stage), options.dialogues(recipe)
    dataset = open_test_set(dataset_url, options.extractor, recipe, jobs)
    clips = clips_of(dataset)
    terms.check([c.key for c in clips], dataset.url)
    clips = clips[: options.limit]
    batches = batches_of(clips, options.batch)

    def read(job: DecodeJob, clip: DecodeItem) -> tuple[dict[str, Any], Any]:
        row, prompt = prompt_of(dataset, clip.shard, clip.row, job, options.seed, recipe, terms.of(clip.key))
        return row, permuted(prompt) if options.permute_vectors else prompt

    with _writer(run, choose_device(options.device), options, dialogues) as (writer, engine):
        guards = dialogues.described() if dialogues else asdict(options.guards)
        settings = DecodeSettings(
            str(run), weights, dataset.url, dataset.fingerprint(), options.seed, options.batch, options.limit,
            guards, _registration(recipe, options.permute_vectors), engine, list(terms.general), terms.described(),
        )  # fmt: skip
        about = _about(recipe, dataset, options, terms.label, engine.get("quantize"))
        output = DecodeFolder(out, settings, about, _ranges(jobs))
        for job in jobs:
            decode_share(Share(job.name, batches[rank::world], rank, world), output, partial(read, job), writer)
    return output.merge({job.name: [c.key for c in clips] for job in jobs})


@contextmanager
def _writer(
    run: Path, device: str, options: DecodeOptions, dialogues: Dialogues | None
) -> Iterator[tuple[Writer, dict[str, Any]]]:
    """Load the model; yield what writes rows with it, and what of the engine the text depends on."""
    if dialogues is not None:
        network, tokenizer = load_for_dialogues(run, device)
        yield dialogues.writer(network, tokenizer), {}
        return
    loaded = load_engine(run, device, options.engine, options.guards, quantize=options.quantize).engine
    try:
        yield Answers(loaded), loaded.described()
    finally:
        loaded.close()


def _ranges(jobs: Sequence[DecodeJob]) -> dict[str, str]:
    """Return job → its range of distractors, for Over-Regist."""
    return {job.name: job.range for job in jobs if job.range}


def _registration(recipe: Any, permuted: bool) -> dict[str, Any]:
    """Return the pools that names are drawn from, and whether vectors are permuted."""
    names = {k: v for k, v in asdict(recipe.data.registration).items() if k in ("names", "name_pools")}
    return names | ({"permuted": True} if permuted else {})


def _about(recipe: Any, dataset: Any, options: DecodeOptions, context: str, smaller: str | None) -> DecodeLabels:
    """Return the labels of the figures: what changes them is in a name, or rows would look alike."""
    test_set = dataset.name + (PERMUTED if options.permute_vectors else "") + context
    run = recipe.name + (f" ({smaller})" if smaller else "")
    return DecodeLabels(run, recipe.stage, test_set, recipe.model.extractor, _hours(recipe))


def batches_of(clips: Sequence[DecodeItem], batch: int) -> list[list[DecodeItem]]:
    """Form batches, the longest clips first: a function of clips and batch size, whatever the number of processes."""
    ordered = sorted(clips, key=lambda c: (-c.samples, c.key))
    return [ordered[i : i + batch] for i in range(0, len(ordered), batch)]


def prompt_of(
    dataset: Any, shard: int, row: int, job: DecodeJob, seed: int, recipe: Any, context: Sequence[str] = ()
) -> tuple[dict[str, Any], Any]:
    """Return one clip's output row without its answer, and its prompt: that of mode no for a clip without speakers.

    Args:
        context: terms of the prompt's line of context.

    Raises:
        DataError: the clip has no speaker embeddings and its mode registers speakers.
    """
    import numpy as np

    from pipeline.data.index_rows import IndexRow
    from pipeline.data.keyed_random import keyed_rng
    from pipeline.data.registration import BankVector, draw_registration
    from pipeline.prompts import Mode, Prompt, prompt_pieces, speaker_labels
    from shards.dataset.reader import read_sample
    from shards.sound.audio import decode as decode_audio

    sample = read_sample(dataset, shard, row)
    key = ("decode", seed, sample.key)
    n_ov = int(keyed_rng(*key, "n_ov", job.range).integers(job.n_ov[0], job.n_ov[1] + 1)) if job.n_ov else None
    described = IndexRow(sample.key, shard, row, sample.session, sample.num_samples, sample.speakers, (), 0, 0)
    drawn = draw_registration(described, Mode(job.mode), recipe.data.registration, dataset.speakers, 0, key, n_ov)
    if drawn.names and sample.embeddings is None:
        raise DataError(f"{dataset.url}: {sample.key} has no speaker embeddings; modes match and over need them")
    vectors = [
        dataset.speakers.vectors[s.row] if isinstance(s, BankVector) else sample.embeddings[s.speaker]  # type: ignore[index]
        for s in drawn.sources
    ]
    names_of = drawn.target_names or {}
    labels = speaker_labels(drawn.mode, sample.segments, names_of)
    result = {
        "key": sample.key,
        "session": sample.session,
        "corpus": sample.corpus,
        "split": sample.split,
        "language": sample.language,
        "duration": sample.duration,
        "mode": job.mode,
        "n_ov": len(drawn.names) - len(sample.speakers) if job.mode == "over" else None,
        "names": list(drawn.names),
        "name_of": dict(names_of),
        "reference": [_turn(s, labels.get(s.speaker), sample.genders.get(s.speaker)) for s in sample.segments],
    }
    stacked = np.stack(vectors).astype(np.float32) if vectors else None
    pieces = tuple(prompt_pieces(drawn.mode, drawn.names, context))
    return result, Prompt(pieces, decode_audio(sample.audio), stacked)


def _turn(segment: Segment, label: str | None, gender: str | None) -> dict[str, Any]:
    """A turn of the reference; with its speaker's gender if that is known."""
    return {**asdict(segment), "speaker": label} | ({"gender": gender} if gender else {})


def permuted(prompt: Any) -> Any:
    """Return the prompt with each name before the next name's vector, the last before the first one's."""
    from dataclasses import replace

    import numpy as np

    return prompt if prompt.vectors is None else replace(prompt, vectors=np.roll(prompt.vectors, -1, axis=0))


def clips_of(dataset: Any) -> list[DecodeItem]:
    """List every clip by key."""
    found = []
    for shard in range(len(dataset.shards)):
        table = dataset.index(shard).select(["key", "num_samples"]).to_pydict()
        found += [
            DecodeItem(k, shard, i, n) for i, (k, n) in enumerate(zip(table["key"], table["num_samples"], strict=True))
        ]
    return sorted(found, key=lambda c: c.key)


def _hours(recipe: Any) -> float | None:
    """Return hours of training data; None if a dataset cannot be opened."""
    from shards.dataset.dataset import open_dataset

    try:
        return sum(d.hours if d.hours is not None else open_dataset(d.path).hours for d in recipe.data.train)
    except SpeakerLMError:
        return None


def open_test_set(url: str, extractor: str | None, recipe: Any, jobs: Sequence[DecodeJob]) -> Any:
    """Open the test set, with vectors of the model's extractor if names are registered."""
    from shards.dataset.dataset import open_dataset

    dataset = open_dataset(url, extractor)
    if not any(j.mode in ("match", "over") for j in jobs):
        return dataset
    if extractor is None and dataset.extractor_id() != recipe.model.extractor:
        trained = {d.extractor for d in (*recipe.data.train, *recipe.data.validation) if d.extractor}
        dataset = open_dataset(url, min(trained, default=None))  # at most one: a run's vectors are of one extractor
    if (made_with := dataset.extractor_id()) != recipe.model.extractor:
        raise DataError(
            f"{dataset.url}: embeddings are of {made_with!r}, the run was trained with {recipe.model.extractor!r}; "
            "pack the test set with that extractor, or embed it and name its vectors (--extractor)"
        )
    if any(j.mode == "over" for j in jobs) and dataset.speakers is None:
        raise DataError(f"{dataset.url} has no speaker bank to draw distractors from; mode over needs one")
    return dataset


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(prog="speakerlm-decode", description="Decode a packed test set with a finished run.")
    p.add_argument("run", type=Path, help="folder of a finished run")
    p.add_argument("dataset_url", metavar="dataset", help="packed test set: a folder or s3://bucket/prefix")
    p.add_argument("out", type=Path, help="folder for one JSON Lines file per mode; an interrupted decoding continues")
    p.add_argument("--modes", default="auto", help="of asr, no, match, over (default: what the run was trained for)")
    p.add_argument(
        "--n-ov",
        default="1-50",
        help="distractors of Over-Regist, drawn from this range; several ranges, or 'paper' for the paper's ten bins, "
        "give one file each (default: 1-50)",
    )
    p.add_argument("--batch", type=positive, default=8, help="clips decoded together; more is faster, takes memory")
    p.add_argument("--seed", type=natural, default=1, help="of names and distractors; keep it to compare models")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 …; bfloat16 on a GPU")
    p.add_argument(
        "--max-new-tokens",
        type=positive,
        help="limit of any answer; shorter audio has a lower one (default: 1024, in dialogues 8192)",
    )
    p.add_argument(
        "--permute-vectors",
        action="store_true",
        help="a control for match and over: every name gets the vector of the next one",
    )
    p.add_argument("--limit", type=positive, help="only the first clips by key")
    p.add_argument("--extractor", help="use the speaker vectors that `speakerlm-shards embed` wrote under this name")
    p.add_argument(
        "--task",
        default="auto",
        choices=("auto", "reason", "single"),
        help="of a Speaker-Reasoner run: dialogues, or the transcript in one turn (default: what its stage learned)",
    )
    p.add_argument("--attempts", type=positive, default=50, help="at a reply of a dialogue, before it ends without one")
    p.add_argument(
        "--engine",
        default="transformers",
        choices=ENGINES,
        help="vllm answers many clips at once, and needs vLLM; the same texts up to rounding (default: transformers)",
    )
    p.add_argument("--quantize", choices=QUANTIZE, help=QUANTIZE_HELP)
    p.add_argument("--context", metavar="FILE|TERMS", help=CONTEXT_HELP)
    p.add_argument(CLIP_CONTEXT, type=Path, metavar="FILE", help=CLIP_CONTEXT_HELP)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``speakerlm-decode``."""
    args = parser().parse_args(argv)
    return outcome("speakerlm-decode", lambda: _run(args), "run it again to continue")


def _run(args: argparse.Namespace) -> int:
    launched = launcher_environment(dict(os.environ))
    rank, world = int(launched["RANK"]), int(launched["WORLD_SIZE"])
    options = DecodeOptions(**{f.name: getattr(args, f.name) for f in fields(DecodeOptions)})
    timings = decode(args.run, args.dataset_url, args.out, options, rank, world)
    if timings is None:
        logger.info("rank %d of %d: decoded its share; the last rank to end merges", rank, world)
        return 0
    for name, t in timings.items():
        factor = "–" if t.real_time_factor is None else f"{t.real_time_factor:.3f}"
        print(
            f"{name}: {t.clips} clips, {t.audio_seconds / 3600:.3f} h of audio, real-time factor {factor}, "
            f"peak memory of a process {t.peak_bytes / 2**30:.2f} GiB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
