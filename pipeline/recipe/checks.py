"""Checks of a recipe's values that types cannot express."""

from __future__ import annotations

import math
from dataclasses import astuple
from operator import attrgetter
from typing import TYPE_CHECKING

from pipeline.stages import CORRECTION, MODULES, STAGES, Base, stage_of
from shards.errors import ConfigError
from shards.plugins import plugin_names

if TYPE_CHECKING:
    from pipeline.recipe.schema import DataConfig, Recipe, RegistrationConfig, TrainerConfig

LEAST_ONE = (
    "trainer.max_steps",
    "trainer.log_every",
    "trainer.validate_every",
    "trainer.validation_batches",
    "trainer.save_every",
    "trainer.keep_last",
    "trainer.max_bad_steps",
    "data.micro_batches_per_step",
    "data.max_positions",
    "data.max_frames",
    "data.window_shards",
    "data.encoder_calls",
    "data.prefetch_steps",
    "model.encoder.frame_multiple",
    "model.projector.stride",
    "model.projector.layers",
    "model.projector.heads",
    "model.lora.r",
    "model.speaker_dim",
)
NOT_BELOW_ZERO = (
    "seed",
    "model.activation_checkpointing.llm_every",
    "trainer.keep_best",
    "trainer.keep_every",
    "data.workers",
    "data.speaker_questions",
    "data.max_consecutive_replacements",
    "data.shard_cache_gb",
    "optimizer.start_lr",
    "optimizer.final_lr",
    "optimizer.warmup_steps",
    "optimizer.weight_decay",
    "optimizer.clip",
)
ABOVE_ZERO = (
    "optimizer.peak_lr",
    "optimizer.eps",
    "trainer.start_timeout_seconds",
    "trainer.timeout_seconds",
)


def check(r: Recipe, where: str) -> None:
    """Check a recipe.

    Raises:
        ConfigError: lists all problems, after ``where``.
    """
    problems = []
    if r.stage not in (CORRECTION.number, *STAGES):
        problems.append(
            f"stage is {r.stage}, there are stages {sorted(STAGES)} (11 to 13: Speaker-Reasoner), "
            "and 0 for a corrector of text"
        )
    elif (before := stage_of(r.stage, r.model.base).starts_from) and not r.init_from:
        problems.append(f"stage {r.stage} continues stage {before}: set init_from to its run folder")
    problems += _base_problems(r)
    if not r.data.train:
        problems.append("data.train is empty: name at least one packed dataset")
    if any(d.weight <= 0 for d in r.data.train):
        problems.append("data.train: every weight must be above 0")
    if r.data.temperature is not None and not 1 <= r.data.temperature < math.inf:
        problems.append(f"data.temperature is {r.data.temperature}, must be at least 1, or null")
    problems += _registration_problems(r.data.registration)
    encoders = plugin_names("encoders", "pipeline.model.encoders")
    if r.model.encoder.type.replace("_", "-") not in encoders:
        problems.append(f"model.encoder.type is {r.model.encoder.type!r}, must be one of {', '.join(encoders)}")
    problems += _data_problems(r.data)
    problems += _context_problems(r)
    if r.stage in STAGES and STAGES[r.stage].tasks:
        problems += _dialogue_problems(r)
    elif r.trainer.best_by == "der":
        problems.append("trainer.best_by is der: only dialogues (stages 11 to 13) have times; choose loss or a CER")
    problems += _size_problems(r)
    problems += _trainer_problems(r.trainer)
    for module, factor in r.optimizer.lr_factors.items():
        if module not in MODULES or not factor > 0:
            problems.append(f"optimizer.lr_factors.{module} is {factor}; a factor above 0 for one of {list(MODULES)}")
    if r.optimizer.warmup_steps >= r.trainer.max_steps:
        problems.append(
            f"optimizer.warmup_steps ({r.optimizer.warmup_steps}) leaves no step of trainer.max_steps "
            f"({r.trainer.max_steps}) to train at full rate"
        )
    if problems:
        raise ConfigError(f"{where}: " + "; ".join(problems))


def _base_problems(r: Recipe) -> list[str]:
    """List contradictions of another base's settings."""
    if r.model.base == Base.SPEAKERLM:
        return []
    if r.model.base not in set(Base):
        return [f"model.base is {r.model.base!r}, must be one of {', '.join(Base)}"]
    stages = [number for number, row in STAGES.items() if row.tasks]
    checks = {
        f"model.base {r.model.base} is for stages {stages} of Speaker-Reasoner, not {r.stage}": r.stage not in stages,
        f"model.llm.liger and float8 are not for model.base {r.model.base}": r.model.llm.liger or r.model.llm.float8,
    }
    return [problem for problem, wrong in checks.items() if wrong]


def _size_problems(r: Recipe) -> list[str]:
    """List numbers outside their range, not-a-number among them."""
    bounds = (
        (LEAST_ONE, "at least 1", lambda v: v >= 1),
        (NOT_BELOW_ZERO, "a number that is not below 0", lambda v: 0 <= v < math.inf),
        (ABOVE_ZERO, "a number above 0", lambda v: 0 < v < math.inf),
    )
    problems = []
    for keys, wanted, fits in bounds:
        values = [(key, attrgetter(key)(r)) for key in keys]
        problems += [f"{key} is {value}, must be {wanted}" for key, value in values if not fits(value)]
    betas = r.optimizer.betas
    if len(betas) != 2 or not all(0 <= b < 1 for b in betas):
        problems.append(f"optimizer.betas is {betas}; must be two numbers from 0 to below 1")
    return problems


def _trainer_problems(t: TrainerConfig) -> list[str]:
    """List contradictions of the training loop's settings."""
    choices = {
        "save_in_background": (t.save_in_background, ("auto", "always", "never")),
        "decode_how": (t.decode_how, ("auto", "local", "together")),
        "best_by": (t.best_by, ("loss", "cer", "cpcer", "sacer", "der")),
    }
    problems = [
        f"trainer.{name} is {value!r}, must be {', '.join(known[:-1])} or {known[-1]}"
        for name, (value, known) in choices.items()
        if value not in known
    ]
    if t.best_by != "loss" and not t.decode_clips:
        problems.append(f"trainer.best_by is {t.best_by}, but trainer.decode_clips is 0: nothing is decoded")
    if not 0 < t.validation_share <= 1:
        problems.append("trainer.validation_share must be above 0 and at most 1")
    if t.decode_clips < 0 or t.decode_batch < 1 or t.decode_tokens < 1:
        problems.append("trainer.decode_clips must not be below 0, decode_batch and decode_tokens at least 1")
    return problems


def _dialogue_problems(r: Recipe) -> list[str]:
    """List contradictions of the dialogues' settings, in a stage that has dialogues."""
    d, cache = r.data.dialogue, r.data.dialogue.cache
    shares = {task.value: getattr(d.tasks, task.value) for task in STAGES[r.stage].tasks}
    checks = {
        f"data.dialogue.tau is {d.tau}, must be above 0 and at most 1": not 0 < d.tau <= 1,
        f"data.dialogue.max_turns is {d.max_turns}, must be at least 1": d.max_turns < 1,
        f"data.dialogue.decimals is {d.decimals}, must be 1 or 2": d.decimals not in (1, 2),
        f"data.dialogue.tasks of stage {r.stage} are {shares}; none may be below 0, at least one must be above 0": (
            min(shares.values()) < 0 or not sum(shares.values()) > 0
        ),
        "data.dialogue: label_weight, time_weight and boundary_weight must not be below 0": (
            not all(0 <= w < math.inf for w in (d.label_weight, d.time_weight, d.boundary_weight))
        ),
        f"data.dialogue.cache.share is {cache.share}, must be 0 to 1": not 0 <= cache.share <= 1,
        "data.dialogue.cache: max_clips and per_speaker must be at least 1": min(cache.max_clips, cache.per_speaker)
        < 1,
        "data.dialogue.cache: 0 < min_seconds <= max_seconds <= total_seconds must hold": (
            not 0 < cache.min_seconds <= cache.max_seconds <= cache.total_seconds
        ),
        f"data.augment.speeds is {r.data.augment.speeds}: a dialogue's times are text, so its speed must be 1": (
            any(speed != 1 for speed in r.data.augment.speeds)
        ),
        "data.augment.frame_masks and mel_masks must be 0: a dialogue's slices would be masked in different places": (
            bool(r.data.augment.frame_masks or r.data.augment.mel_masks)
        ),
        "data.speaker_questions must be 0: a dialogue has no speaker probes": bool(r.data.speaker_questions),
        "trainer.best_by is sacer: no name is registered in dialogues; choose loss, cer, cpcer or der": (
            r.trainer.best_by == "sacer"
        ),
    }
    return [problem for problem, wrong in checks.items() if wrong]


def _registration_problems(registration: RegistrationConfig) -> list[str]:
    """List contradictions of the registration's settings."""
    problems, shares = [], astuple(registration.mode_shares)
    if not 0 < registration.max_distractors <= 100:
        problems.append("data.registration.max_distractors must be 1..100")
    if registration.names not in ("pools", "corpus"):
        problems.append(f"data.registration.names is {registration.names!r}, must be pools or corpus")
    if min(shares) < 0 or not 0 < sum(shares) < math.inf:
        problems.append(f"data.registration.mode_shares is {shares}; none may be below 0, at least one must be above 0")
    return problems


def _context_problems(r: Recipe) -> list[str]:
    """List contradictions of the line of context."""
    c, problems = r.data.context, []
    if not 0 <= c.share <= 1:
        problems.append(f"data.context.share is {c.share}, must be 0 to 1")
    if min(c.max_terms, c.max_distractors) < 0 or max(c.max_terms, c.max_distractors) < 1:
        problems.append("data.context: max_terms and max_distractors must not be below 0, one of them must be above")
    if c.share and (r.stage not in STAGES or STAGES[r.stage].tasks):
        problems.append(f"data.context is for stages 1 to 4; leave data.context.share at 0 in stage {r.stage}")
    return problems


def _data_problems(data: DataConfig) -> list[str]:
    """List contradictions of mixture, curriculum and augmentation."""
    problems = []
    steps = [p.from_step for p in data.curriculum]
    if steps != sorted(set(steps)) or any(s < 1 for s in steps):
        problems.append(f"data.curriculum begins at steps {steps}; they must be 1 or more and ascend")
    for p in data.curriculum:
        if p.weights is not None and (len(p.weights) != len(data.train) or min(p.weights) < 0 or not any(p.weights)):
            problems.append(
                f"data.curriculum from step {p.from_step}: weights {p.weights}; must be one per dataset of data.train, "
                "none below 0 and at least one above"
            )
        if p.max_seconds is not None and p.max_seconds <= 0:
            problems.append(f"data.curriculum from step {p.from_step}: max_seconds must be above 0")
    if any(d.epochs is not None and d.epochs < 1 for d in data.train):
        problems.append("data.train: epochs must be at least 1, or null")
    a = data.augment
    if not a.speeds or not all(0.5 <= s <= 2 for s in a.speeds):
        problems.append(f"data.augment.speeds is {a.speeds}, must be one or more factors between 0.5 and 2")
    if not 0 <= a.noise_probability <= 1 or len(a.noise_snr) != 2 or a.noise_snr[0] > a.noise_snr[1]:
        problems.append("data.augment: noise_probability must be 0..1, noise_snr the least and the most dB")
    if min(a.frame_masks, a.mel_masks) < 0 or min(a.frame_mask_width, a.mel_mask_width) < 0:
        problems.append("data.augment: masks and their widths must not be below 0")
    return problems
