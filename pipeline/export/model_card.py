"""The model card: what a run was trained on and from, its scores, how to use it, whose licences apply."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.checkpoint.final_weights import DONE
from pipeline.model.encoder_interface import find_encoder
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import Recipe
from pipeline.stages import STAGES
from shards.errors import ConfigError, ScoreError, SpeakerLMError

ABOUT = """\
Hears a conversation and writes who said what ([SpeakerLM](https://arxiv.org/abs/2508.06372)): a speech encoder, two
projectors and a causal LM. Speakers come out as `spk0`, `spk1`, …, or by name where a vector of each was registered."""
REGISTERING = """\
A speaker is registered by one vector of {dim} numbers, made by **{extractor}** from 2–10 s clips of that person's
speech, averaged and brought to unit norm. Vectors of any other extractor mean nothing to this model. `mode="asr"` asks
for the words alone. """
LIMITS = """\
- The code files in this folder are under Apache-2.0. The weights are made from others' and stay under their terms:
  those of the LLM (`{llm}`), of the encoder (`{encoder}`) and of the training data named above. Read them before you
  pass the weights on.
- A speaker vector identifies a person. Register people only with their consent, and treat vectors as personal data.
- Trained on clips of 40–50 s of one channel at 16 kHz; longer recordings have to be cut. A sentence may be given to the
  wrong speaker: check before anything depends on who said it."""
USE = """```python
import soundfile
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained("FOLDER", trust_remote_code=True)
model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True)
wave, rate = soundfile.read("meeting.wav", dtype="float32")  # 16 kHz, one channel
inputs = processor(wave, registered={"Mike": mike, "Lucy": lucy}, sampling_rate=rate)  # or registered=None: spk0, spk1
print(processor.batch_decode(model.generate(**inputs, max_new_tokens=1024))[0])
```"""


def model_card(run: Path, recipe: Recipe, name: str, merged: bool, scores: Path | None) -> str:
    """The card's Markdown with Hugging Face's front matter.

    Args:
        run: the finished run; ``scores.json`` in it is shown if ``scores`` is not given.
        name: title of the exported model.
        merged: whether LoRA is part of the LLM's weights.

    Raises:
        ScoreError: the scores cannot be read.
    """
    parts = [
        _front_matter(recipe),
        f"# {name}",
        ABOUT,
        "## Use",
        USE.replace("FOLDER", name),
        REGISTERING.format(dim=recipe.model.speaker_dim, extractor=recipe.model.extractor) + _needs(recipe, merged),
        "## Training",
        _training(run, recipe),
        "## Scores",
        _scores(scores or run / "scores.json", asked=scores is not None),
        "## Limits and licences",
        LIMITS.format(llm=recipe.model.llm.checkpoint, encoder=recipe.model.encoder.checkpoint or "none, it is new"),
    ]
    return "\n\n".join(parts) + "\n"


def _needs(recipe: Recipe, merged: bool) -> str:
    """The libraries that the folder's code imports."""
    names = ["transformers", "torch"]
    names += [*find_encoder(recipe.model.encoder.type).REQUIRES, *["peft"] * (not merged)]
    return f"Needs {', '.join(names[:-1])} and {names[-1]}."


def _front_matter(recipe: Recipe) -> str:
    ids = [c for c in (recipe.model.llm.checkpoint, recipe.model.encoder.checkpoint) if c and _is_hub_id(c)]
    bases = "base_model:\n" + "".join(f"- {i}\n" for i in ids) if ids else ""
    return (
        "---\nlibrary_name: transformers\npipeline_tag: automatic-speech-recognition\n"
        f"tags: [speakerlm, speaker-diarization, speech-recognition]\n{bases}license: other\n---"
    )


def _is_hub_id(checkpoint: str) -> bool:
    return checkpoint.count("/") == 1 and not checkpoint.startswith((".", "/")) and not Path(checkpoint).exists()


def _training(run: Path, recipe: Recipe) -> str:
    m = recipe.model
    lines = [
        f"- LLM: `{m.llm.checkpoint}`, LoRA of rank {m.lora.r} (alpha {m.lora.alpha}) on {', '.join(m.lora.targets)}",
        f"- encoder: `{m.encoder.checkpoint or m.encoder.class_name}`",
        f"- audio projector: {m.projector.layers} Transformer layers, a convolution of stride {m.projector.stride}",
        f"- speaker vectors: {m.extractor}, {m.speaker_dim} numbers",
        "",
        "| stage | trained | steps | micro-batches a step | data |",
        "|---|---|---|---|---|",
        *(_stage_line(r, f) for r, f in _lineage(run, recipe)),
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
    done = json.loads((run / DONE).read_text(encoding="utf-8")) if (run / DONE).is_file() else {}
    data = ", ".join(f"{Path(d.path).name} ({d.weight:g})" for d in recipe.data.train)
    trained = ", ".join(sorted(stage.trains))
    steps, m = done.get("step", "?"), recipe.data.micro_batches_per_step
    return f"| {stage.number} {stage.name} | {trained} | {steps} | {m} of ≤ {recipe.data.max_positions} | {data} |"


def _scores(path: Path, asked: bool) -> str:
    from pipeline.evaluation.result_tables import results

    if not path.is_file():
        if asked:
            raise ScoreError(f"{path}: no such file; give the scores.json that speakerlm-score wrote")
        return "None were given when this folder was written."
    try:
        rows: Sequence[Any] = json.loads(path.read_text(encoding="utf-8"))
        return results(rows).markdown()
    except (ValueError, KeyError, TypeError, SpeakerLMError) as e:
        raise ScoreError(f"{path}: not scores that speakerlm-score wrote: {e}") from e
