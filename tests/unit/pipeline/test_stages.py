"""The four rows, against the paper."""

import pytest

from pipeline.stages import CORRECTION, MODULES, STAGES, Stage, module_of, stage_of


def test_rows_are_the_papers() -> None:
    trains = {n: set(s.trains) for n, s in STAGES.items()}
    assert trains == {
        1: {"encoder", "audio_projector", "lora"},
        2: {"audio_projector", "speaker_projector"},
        3: {"encoder", "audio_projector", "speaker_projector"},
        4: set(MODULES),
    }
    assert [s.registration for s in STAGES.values()] == [False, True, True, True]
    assert [s.starts_from for s in STAGES.values()] == [None, 1, 2, 3]


def test_stage_0_is_no_stage_of_the_paper() -> None:
    assert 0 not in STAGES
    assert stage_of(0) is CORRECTION
    assert (CORRECTION.trains, CORRECTION.registration, CORRECTION.starts_from) == ({"lora"}, False, None)
    assert [stage_of(n) for n in STAGES] == list(STAGES.values())


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
