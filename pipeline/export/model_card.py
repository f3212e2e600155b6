"""The model card: what a run was trained on and from, its scores, how to use it, whose licences apply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.export.card_scores import model_index, read_scores, scores_section, smaller_scores
from pipeline.export.card_sources import base_models, checkpoint_of, done_of, start_of
from pipeline.export.card_use import usage
from pipeline.export.training_data import DataFacts, data_facts
from pipeline.model.encoder_interface import find_encoder
from pipeline.model.optional_packages import AUDIO, OPTIONAL
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import Recipe
from pipeline.stages import STAGES
from shards.errors import ConfigError

ABOUT = """\
Hears a conversation and writes who said what ([SpeakerLM](https://arxiv.org/abs/2508.06372)): a speech encoder, two
projectors and a causal LM. Speakers come out as `spk0`, `spk1`, …, or by name where a vector of each was registered."""
SMALLER = """\
The commands of speakerlm-pretrain take `--quantize int8` or `nf4`: the LLM's linear layers in 8 or 4 bits (on a GPU and
for nf4 with bitsandbytes). On a CPU and layers of a 0.5B LLM, a token of int8 was written in 0.29–0.38 of float32's
time; on a tiny model its CER changed by −0.6 to +1.5 points. {measured}"""
NOT_MEASURED = "Neither was measured on this model."
LIMITS = """\
- The code files in this folder are under Apache-2.0. The weights are made from others' and stay under their terms:
  those of the LLM ({llm}), of the encoder ({encoder}) and of the training data named above. Read them before you
  pass the weights on.
- A speaker vector identifies a person. Register people only with their consent, and treat vectors as personal data.
- Trained on clips of one channel at 16 kHz{lengths}; longer recordings have to be cut, as `transcribe` does. A sentence
  may be given to the wrong speaker: check before anything depends on who said it."""


def model_card(
    run: Path,
    recipe: Recipe,
    name: str,
    merged: bool,
    scores: Path | None,
    enrolment: Mapping[str, Any] | None = None,
) -> str:
    """The card's Markdown with Hugging Face's front matter.

    Args:
        run: the finished run.
        name: title of the exported model.
        merged: whether LoRA is part of the LLM's weights.
        scores: ``scores.json``; None takes that in the run's folder, if any.
        enrolment: what the folder carries to enrol speakers.

    Raises:
        ScoreError: the scores cannot be read.
    """
    lineage = _lineage(run, recipe)
    facts = {path: data_facts(path) for path in {s.path for before, _ in lineage for s in before.data.train}}
    m, rows = recipe.model, read_scores(scores or run / "scores.json", asked=scores is not None)
    registers = STAGES[recipe.stage].registration
    parts = [
        _front_matter(lineage[0], model_index(name, rows)),
        f"# {name}",
        ABOUT,
        "## Use",
        usage(name, m.speaker_dim, m.extractor, registers, enrolment or {}),
        _needs(recipe, merged, smaller_scores(rows)),
        "## Training",
        _training(lineage, facts),
        "## Scores",
        scores_section(rows, run),
        "## Limits and licences",
        LIMITS.format(
            llm=checkpoint_of(recipe, run, "llm"),
            encoder=checkpoint_of(recipe, run, "encoder"),
            lengths=_lengths(recipe, facts),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _needs(recipe: Recipe, merged: bool, smaller: str) -> str:
    """The libraries that the folder's code imports, and what was measured of smaller weights."""
    names = ["transformers", "torch"]
    names += [*find_encoder(recipe.model.encoder.type).REQUIRES, *["peft"] * (not merged)]
    extra = ", ".join(f"`{OPTIONAL[m]}`" for m in (*AUDIO, "kaldi_native_fbank", "funasr"))
    loading = f"Needs {', '.join(names[:-1])} and {names[-1]}."
    needs = f"{loading} Transcribing and enrolling need further packages ({extra}); what is missing is named."
    return needs if STAGES[recipe.stage].tasks else f"{needs}\n\n{SMALLER.format(measured=smaller or NOT_MEASURED)}"


def _front_matter(first: tuple[Recipe, Path], index: str) -> str:
    ids = base_models(*first)
    bases = "base_model:\n" + "".join(f"- {i}\n" for i in ids) if ids else ""
    return (
        "---\nlibrary_name: transformers\npipeline_tag: automatic-speech-recognition\n"
        f"tags: [speakerlm, speaker-diarization, speech-recognition]\n{bases}license: other\n{index}---"
    )


def _training(lineage: Sequence[tuple[Recipe, Path]], facts: Mapping[str, DataFacts | None]) -> str:
    recipe, run = lineage[-1]
    m, before = recipe.model, start_of(*lineage[0])
    used: dict[str, list[int]] = {}
    for step, _ in lineage:
        for share in step.data.train:
            used.setdefault(share.path, []).append(step.stage)
    lines = [
        *([f"- starts from {before}"] if before else []),
        f"- LLM: {checkpoint_of(recipe, run, 'llm')}, LoRA of rank {m.lora.r} (alpha {m.lora.alpha}) on "
        f"{', '.join(m.lora.targets)}",
        f"- encoder: {checkpoint_of(recipe, run, 'encoder') if m.encoder.checkpoint else f'`{m.encoder.class_name}`'}",
        f"- audio projector: {m.projector.layers} Transformer layers, a convolution of stride {m.projector.stride}",
        f"- speaker vectors: {m.extractor}, {m.speaker_dim} numbers",
        "",
        "| stage | trained | steps | micro-batches a step | seed | data |",
        "|---|---|---|---|---|---|",
        *(_stage_line(r, f) for r, f in lineage),
        "",
        "| data | stages | corpora | languages | hours | clips | their lengths |",
        "|---|---|---|---|---|---|---|",
        *(_data_line(path, stages, facts[path]) for path, stages in used.items()),
    ]
    return "\n".join(lines)


def _lineage(run: Path, recipe: Recipe) -> list[tuple[Recipe, Path]]:
    """The runs that led to this one, first to last, as far as their folders are in reach."""
    found = [(recipe, run)]
    while (before := found[0][0].init_from) and len(found) < len(STAGES):
        try:
            found.insert(0, (load_recipe(Path(before) / "config.yaml"), Path(before)))
        except ConfigError:
            break
    return found


def _stage_line(recipe: Recipe, run: Path) -> str:
    stage = STAGES[recipe.stage]
    done = done_of(run)
    data = ", ".join(f"{Path(d.path).name} ({d.weight:g})" for d in recipe.data.train)
    trained = ", ".join(sorted(stage.trains))
    steps, m = done.get("step", "?"), recipe.data.micro_batches_per_step
    size = f"{m} of ≤ {recipe.data.max_positions}"
    return f"| {stage.number} {stage.name} | {trained} | {steps} | {size} | {recipe.seed} | {data} |"


def _data_line(path: str, stages: Sequence[int], facts: DataFacts | None) -> str:
    start = f"| {Path(path).name} | {', '.join(map(str, stages))} |"
    if facts is None:
        return f"{start} not in reach when this folder was written | | | | |"
    parts = (", ".join(facts.corpora), ", ".join(facts.languages), f"{facts.hours:.1f}", f"{facts.samples:,}")
    return f"{start} {' | '.join(parts)} | {facts.lengths} |"


def _lengths(recipe: Recipe, facts: Mapping[str, DataFacts | None]) -> str:
    """Lengths of the clips of the run's own stage, as far as its data are in reach."""
    found = [known for share in recipe.data.train if (known := facts[share.path])]
    if not found:
        return ""
    return f", of {min(f.shortest for f in found):.1f}–{max(f.longest for f in found):.1f} s in the last stage"
