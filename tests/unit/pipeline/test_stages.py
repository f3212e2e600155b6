"""The rows, against the papers."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.stages import CORRECTION, MODULES, STAGES, Base, Stage, Task, module_of, stage_of

ROOT = Path(__file__).resolve().parents[3]


def test_rows_are_the_papers() -> None:
    trains = {n: set(s.trains) for n, s in STAGES.items()}
    assert trains == {
        1: {"encoder", "audio_projector", "lora"},
        2: {"audio_projector", "speaker_projector"},
        3: {"encoder", "audio_projector", "speaker_projector"},
        4: set(MODULES),
        **{n: {"encoder", "audio_projector", "lora"} for n in (11, 12, 13)},
    }
    assert [n for n, s in STAGES.items() if s.registration] == [2, 3, 4]
    assert {n: s.starts_from for n, s in STAGES.items()} == {1: None, 2: 1, 3: 2, 4: 3, 11: 1, 12: 11, 13: 12}
    assert {n: set(s.tasks) for n, s in STAGES.items() if s.tasks} == {
        11: {Task.SINGLE, Task.COUNT, Task.GENDERS},
        12: {Task.REASON, Task.SINGLE},
        13: {Task.REASON},
    }
    assert [n for n, s in STAGES.items() if s.cache] == [13]


def test_stage_0_is_not_in_the_papers_chain() -> None:
    assert 0 not in STAGES
    assert stage_of(0) is CORRECTION
    assert (CORRECTION.trains, CORRECTION.registration, CORRECTION.starts_from) == ({"lora"}, False, None)
    assert [stage_of(n) for n in STAGES] == list(STAGES.values())


@pytest.mark.parametrize("stage", [CORRECTION, *STAGES.values()], ids=lambda s: s.name)
def test_rows_name_what_builds_model_and_batches(stage: Stage) -> None:
    assert callable(stage.load(stage.model))
    assert callable(stage.load(stage.data))
    assert stage.meter is None or callable(stage.load(stage.meter))


def test_stages_are_listed_without_importing_what_they_name() -> None:
    code = "import sys, pipeline.stages; print(any(m.split('.')[0] == 'torch' or '.train' in m for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("base", [Base.QWEN2_5_OMNI, Base.QWEN3_OMNI])
def test_a_thinkers_lora_alone_learns_and_its_first_stage_starts_from_the_checkpoint(base: Base) -> None:
    rows = {number: stage_of(number, base) for number in (11, 12, 13)}
    assert {row.trains for row in rows.values()} == {frozenset({"lora"})}
    assert [row.starts_from for row in rows.values()] == [None, 11, 12]
    assert all(callable(row.load(row.model)) for row in rows.values())
    assert stage_of(12, Base.SPEAKERLM) is STAGES[12]


def test_unknown_module_is_refused() -> None:
    with pytest.raises(ValueError, match="decoder"):
        Stage(5, "x", frozenset({"decoder"}), True, "", None)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("encoder.encoders.0.norm1.weight", "encoder"),
        ("audio_projector.conv.weight", "audio_projector"),
        ("speaker_projector.weight", "speaker_projector"),
        ("llm.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", "lora"),
        ("llm.model.embed_tokens.weight", "llm"),
        ("llm.lm_head.weight", "llm"),
    ],
)
def test_parameters_belong_to_modules(name: str, module: str) -> None:
    assert module_of(name) == module
