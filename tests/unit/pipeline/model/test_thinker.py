"""Thinkers of Qwen2.5-Omni and Qwen3-Omni: equal to transformers' own, packed or alone, whichever audio is beside."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.frames import audio_positions, mel_frames
from pipeline.model.thinker import Thinker, build_thinker
from pipeline.model.thinker_audio import ThinkerFrontend
from pipeline.model.thinker_tokens import ThinkerTokenizer
from pipeline.prompts import TextPiece
from pipeline.stages import Base, Checkpointing
from shards.errors import AudioError, ModelError
from tests.support.thinkers import AUDIO_TOKENS, make_thinker, thinker_config

BASES = [Base.QWEN2_5_OMNI, Base.QWEN3_OMNI]


@pytest.fixture(scope="module", params=BASES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_thinker(tmp_path_factory.mktemp("thinker") / request.param, request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> Thinker:
    made = build_thinker(thinker_config(folder, folder.name))
    torch.manual_seed(1)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    made.trainable({"lora"})
    return made.train()


def wave(samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def dialogue(model: Thinker, tokenizer: ThinkerTokenizer, waves: list[Tensor]) -> tuple[list[int], list[int], int]:
    """Ids with the pad token at audio positions, those positions, and where the target begins: one audio a turn."""
    pad = tokenizer.tokenizer.convert_tokens_to_ids(AUDIO_TOKENS[model.base][1])
    ids, audio = list(tokenizer.prefix), []
    for w in waves:
        ids += tokenizer.encode_common("<start>")
        audio += range(len(ids), len(ids) + model.positions(len(w)))
        ids += [pad] * model.positions(len(w))
        ids += [*tokenizer.encode_common("<end>"), *tokenizer.encode_piece("Who speaks?")]
    ids += tokenizer.suffix
    return [*ids, *tokenizer.encode_piece("Mike: hello, Lucy.\n"), tokenizer.eos], audio, len(ids)


def packed(model: Thinker, tokenizer: ThinkerTokenizer, samples: list[list[Tensor]]) -> dict[str, Any]:
    ids: list[int] = []
    audio: list[int] = []
    targets: list[int] = []
    bounds = [0]
    for waves in samples:
        own, places, start = dialogue(model, tokenizer, waves)
        audio += [bounds[-1] + p for p in places]
        targets += range(bounds[-1] + start, bounds[-1] + len(own))
        ids += own
        bounds.append(len(ids))
    heard = [w for waves in samples for w in waves]
    input_ids, index = torch.tensor(ids), torch.tensor(targets)
    return {
        "waveforms": torch.nn.utils.rnn.pad_sequence(heard, batch_first=True),
        "waveform_lengths": torch.tensor([len(w) for w in heard]),
        "input_ids": input_ids,
        "position_ids": torch.cat([torch.arange(b - a) for a, b in pairwise(bounds)]),
        "cu_seqlens": torch.tensor(bounds, dtype=torch.int32),
        "audio_index": torch.tensor(audio),
        "target_index": index - 1,
        "target_ids": input_ids[index],
        "speaker_vectors": torch.zeros(1, 1),
        "speaker_index": torch.zeros(0, dtype=torch.long),
    }


def extracted(base: Base, samples: Tensor) -> Any:
    """What the processor of this model gives its encoder for one audio."""
    from transformers import WhisperFeatureExtractor

    extract = WhisperFeatureExtractor(feature_size=128)
    if base is Base.QWEN2_5_OMNI:
        options: dict[str, Any] = {"padding": "max_length"}
    else:
        samples = torch.nn.functional.pad(samples, (0, -len(samples) % 160))
        options = {"padding": True, "truncation": False}
    return extract(samples.numpy(), sampling_rate=16_000, return_attention_mask=True, return_tensors="pt", **options)


# ------------------------------------------------------------------------------------------------------------- audio


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("samples", [400, 1600, 15_999, 16_000, 31_777, 80_160])
def test_features_are_those_of_the_processor(base: Base, samples: int) -> None:
    w = wave(samples)
    expected = extracted(base, w)
    frames = int(expected.attention_mask.sum())
    assert frames == mel_frames(samples)
    beside = torch.stack([torch.nn.functional.pad(w, (0, 9000)), wave(samples + 9000, 3)])
    got = ThinkerFrontend(128, base)(beside, [samples, samples + 9000])[0]
    torch.testing.assert_close(got, expected.input_features[0, :, :frames].T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("base", BASES)
def test_positions_are_those_of_the_encoder(base: Base) -> None:
    from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import _get_feat_extract_output_lengths as two
    from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import _get_feat_extract_output_lengths as three

    theirs = two if base is Base.QWEN2_5_OMNI else three
    for frames in range(3, 450):
        assert audio_positions(160 * frames, base) == theirs(frames)
        assert audio_positions(160 * frames - 159, base) == theirs(frames)
    rate = 25 if base is Base.QWEN2_5_OMNI else 13
    assert audio_positions(50 * 16_000, base) == 50 * rate


def test_audio_is_encoded_as_transformers_encodes_it(model: Thinker) -> None:
    w = wave(40_333)
    features = extracted(model.base, w)
    with torch.no_grad():
        expected = model.llm.model.get_audio_features(features.input_features, features.attention_mask)
    got = model.encode_audio(w[None], torch.tensor([len(w)]))
    torch.testing.assert_close(got, expected.last_hidden_state, rtol=1e-4, atol=1e-5)


def test_an_audio_gives_the_same_beside_any_other(model: Thinker) -> None:
    waves = [wave(4000, 1), wave(52_000, 2), wave(17_100, 3)]
    alone = [model.encode_audio(w[None], torch.tensor([len(w)])) for w in waves]
    assert [len(a) for a in alone] == [model.positions(len(w)) for w in waves]
    calls = (torch.nn.utils.rnn.pad_sequence(waves[:2], batch_first=True), waves[2][None])
    got = model.encode_audio(calls, torch.tensor([len(w) for w in waves]))
    torch.testing.assert_close(got, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_too_short_an_audio_is_an_error(model: Thinker) -> None:
    with pytest.raises(AudioError, match="at least 400"):
        model.encode_audio(wave(399)[None], torch.tensor([399]))


# --------------------------------------------------------------------------------------------------------------- loss


def test_loss_of_a_turn_equals_transformers(model: Thinker, folder: Path) -> None:
    tokenizer = ThinkerTokenizer.of_base(folder, model.base)
    w = wave(40_333)
    ids, _, start = dialogue(model, tokenizer, [w])
    features = extracted(model.base, w)
    row = torch.tensor([ids])
    labels = row.clone()
    labels[:, :start] = -100
    with torch.no_grad():
        theirs = model.llm(
            input_ids=row,
            attention_mask=torch.ones_like(row),
            input_features=features.input_features,
            feature_attention_mask=features.attention_mask,
            labels=labels,
        )
    ours = model(**packed(model, tokenizer, [[w]]))
    assert ours.num_targets == len(ids) - start
    assert ours.loss.item() == pytest.approx(theirs.loss.item() * ours.num_targets, rel=1e-5)


def test_packed_dialogues_equal_each_alone(model: Thinker, folder: Path) -> None:
    tokenizer = ThinkerTokenizer.of_base(folder, model.base)
    samples = [[wave(30_000, 1), wave(5_000, 2)], [wave(18_000, 3)], [wave(20_000, 4), wave(1600, 5), wave(9_000, 6)]]

    def loss_of(chosen: list[list[Tensor]]) -> tuple[float, Tensor]:
        model.zero_grad()
        loss = model(**packed(model, tokenizer, chosen)).loss
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    together, gradient = loss_of(samples)
    apart = [loss_of([sample]) for sample in samples]
    assert together == pytest.approx(sum(loss for loss, _ in apart), rel=1e-5)
    torch.testing.assert_close(gradient, sum(g for _, g in apart), rtol=1e-3, atol=1e-4)


def test_checkpointing_changes_no_gradient(model: Thinker, folder: Path) -> None:
    tokenizer = ThinkerTokenizer.of_base(folder, model.base)
    inputs = packed(model, tokenizer, [[wave(20_000)]])
    gradients = []
    for setting in (False, True):
        model.set_checkpointing(setting)
        model.zero_grad()
        model(**inputs).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    model.set_checkpointing(False)
    torch.testing.assert_close(*gradients)


# ------------------------------------------------------------------------------------------------------------ weights


def test_only_lora_of_attention_and_dense_layers_is_trained(model: Thinker) -> None:
    names = model.trainable({"lora"})
    assert all(".language_model.layers." in name and ".lora_" in name for name in names)
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in names}
    dense = {"gate_proj", "up_proj", "down_proj"} if model.base is Base.QWEN2_5_OMNI else set()
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj"} | dense
    assert not any("visual" in name for name, _ in model.named_parameters())


def test_dialogues_have_the_models_own_marks_and_no_system_line(folder: Path) -> None:
    base = Base(folder.name)
    tokenizer = ThinkerTokenizer.of_base(folder, base)
    start, _, end = AUDIO_TOKENS[base]
    question = tokenizer.encode_turn((TextPiece("<start>"), TextPiece("<end>"), TextPiece("Who?")), True, str)
    text = tokenizer.tokenizer.decode(question)
    assert text == f"<|im_start|>user\n{start}{end}Who?<|im_end|>\n<|im_start|>assistant\n"
    assert len(tokenizer.encode_piece(start)) > 1  # in a transcript it is plain text


def test_a_transformers_with_other_parts_is_named() -> None:
    older = torch.nn.Module()
    older.model = torch.nn.Module()
    with pytest.raises(ModelError, match=r"install 5\.23"):
        Thinker(older, Base.QWEN3_OMNI, {}, checkpointing=Checkpointing())


def test_a_folder_of_another_model_is_refused(folder: Path) -> None:
    cfg = thinker_config(folder, folder.name)
    cfg.base = next(b for b in BASES if b != folder.name)
    with pytest.raises(ModelError, match=r"set both to the same"):
        build_thinker(cfg)
    with pytest.raises(ModelError, match="lacks"):
        ThinkerTokenizer.of_base(folder, Base(cfg.base))
