"""Packed tensors say what the prompt and the target say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.data.collate import ON_HOST, collate, empty_batch
from pipeline.data.loader import SampleReader
from pipeline.frames import audio_positions
from pipeline.prompts import Mode, PromptTokenizer
from shards.errors import PlanError
from tests.support.datasets import make_dataset
from tests.support.planning import packed_plan, samples_of
from tests.support.tiny import TEXTS, make_tokenizer

STRIDE, DIM = 2, 192


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return PromptTokenizer.from_folder(make_tokenizer(tmp_path_factory.mktemp("tokenizer"), TEXTS))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), samples=12)


def load(dataset, tokenizer, mode: Mode):
    plan = packed_plan([dataset], tokenizer, registration=mode is not Mode.ASR, modes=(mode,))
    reader = SampleReader([dataset], tokenizer, STRIDE, DIM)
    return [reader.load(p) for p in samples_of(list(plan))[:5]]


@pytest.mark.parametrize("mode", list(Mode))
def test_a_micro_batch_spells_out_prompt_and_target(dataset, tokenizer, mode):
    loaded = load(dataset, tokenizer, mode)
    batch = collate(loaded, tokenizer, STRIDE, DIM, "made")
    audio, speakers, targets = (set(t.tolist()) for t in (batch.audio_index, batch.speaker_index, batch.target_index))
    marks = {"audio": tokenizer.encode_piece("[AUDIO]"), "speaker": tokenizer.encode_piece("[VOICE]")}
    for n, item in enumerate(loaded):
        begin, end = batch.cu_seqlens[n : n + 2].tolist()
        here = range(begin, end)
        assert batch.position_ids[begin:end].tolist() == list(range(end - begin))
        assert sum(i in audio for i in here) == audio_positions(len(item.wave), STRIDE)
        shown = tokenizer.tokenizer.decode(
            [
                token
                for i in here
                for token in (
                    marks["audio"]
                    if i in audio and i - 1 not in audio
                    else ()
                    if i in audio
                    else marks["speaker"]
                    if i in speakers
                    else [batch.input_ids[i].item()]
                )
            ]
        )
        asked = "Transcribe the speech." if mode is Mode.ASR else "Transcribe by roles."
        registered = "".join(f"{name}<start>[VOICE]<end>;\n" for name in item.planned.names)
        question = (f"Registered Speaker Embeddings:\n{registered}" if registered else "") + asked
        assert f"\n{question} <start>[AUDIO]<end><|im_end|>\n<|im_start|>assistant\n" in shown
        if mode is Mode.ASR:
            target = " ".join(s.text for s in item.sample.segments)
        else:
            order = list(item.sample.speakers)
            names = item.planned.target_names or {s: f"spk{order.index(s)}" for s in order}
            target = "\n".join(f"{names[s.speaker]}: {s.text}" for s in item.sample.segments)
        assert shown.endswith(f"assistant\n{target}<|im_end|>")
        mine = [i for i, t in enumerate(batch.target_index.tolist()) if t in here]
        assert tokenizer.decode(batch.target_ids[mine].tolist()) == target
        assert [batch.target_index[i] + 1 for i in mine] == list(range(end - len(mine), end))
    assert torch.equal(batch.target_ids, batch.input_ids[batch.target_index + 1])
    assert max(targets) < len(batch.input_ids) - 1
    assert batch.mode is mode
    assert batch.num_targets == sum(i.planned.targets for i in loaded)


def test_vectors_stand_in_prompt_order_and_belong_to_their_names(dataset, tokenizer):
    loaded = load(dataset, tokenizer, Mode.OVER)
    batch = collate(loaded, tokenizer, STRIDE, DIM, "made")
    assert len(batch.speaker_vectors) == len(batch.speaker_index)
    rows = iter(batch.speaker_vectors)
    for item in loaded:
        named = {name: speaker for speaker, name in item.planned.target_names.items()}
        for name, source in zip(item.planned.names, item.planned.sources, strict=True):
            vector = next(rows).numpy()
            if name in named:
                expected = item.sample.embeddings[item.sample.speakers.index(named[name])]
            else:
                expected = dataset.speakers.vectors[source.row]
                assert dataset.speakers.ids[source.row] not in item.sample.speakers
            assert np.array_equal(vector, expected.astype(np.float32))


@pytest.mark.parametrize("mode", [Mode.NO, Mode.ASR])
def test_no_registered_speaker_still_gives_one_row_for_the_projector(dataset, tokenizer, mode):
    batch = collate(load(dataset, tokenizer, mode), tokenizer, STRIDE, DIM, "made")
    assert batch.speaker_vectors.shape == (1, DIM)
    assert not batch.speaker_vectors.any()
    assert batch.speaker_index.shape == (0,)
    assert batch.speaker_index.dtype == torch.int64


def test_waveforms_are_padded_with_zeros(dataset, tokenizer):
    loaded = load(dataset, tokenizer, Mode.NO)
    batch = collate(loaded, tokenizer, STRIDE, DIM, "made")
    for row, length, item in zip(batch.waveforms, batch.waveform_lengths, loaded, strict=True):
        assert np.array_equal(row[:length].numpy(), item.wave)
        assert not row[length:].any()


@pytest.mark.parametrize("change", [{"positions": 1}, {"targets": 1}, {"names": ("X",)}])
def test_other_lengths_than_planned_stop_the_run(dataset, tokenizer, change):
    item = load(dataset, tokenizer, Mode.NO)[0]
    changed = {n: v if n == "names" else getattr(item.planned, n) + v for n, v in change.items()}
    mode = Mode.MATCH if "names" in change else Mode.NO
    wrong = replace(item, planned=replace(item.planned, mode=mode, **changed))
    if mode is Mode.MATCH:
        wrong = replace(wrong, planned=replace(wrong.planned, target_names=dict.fromkeys(item.sample.speakers, "X")))
    with pytest.raises(PlanError, match=item.planned.key):
        collate([wrong], tokenizer, STRIDE, DIM, "made")


def test_an_empty_micro_batch_has_every_part_of_a_real_one_and_no_weight(tokenizer):
    batch = empty_batch(tokenizer, STRIDE, DIM)
    assert batch.weight == 0.0
    assert (batch.num_targets, batch.num_positions, batch.keys) == (0, 0, ())
    assert len(batch.audio_index) == audio_positions(8000, STRIDE)
    assert len(batch.speaker_index) == len(batch.speaker_vectors) == 1
    assert batch.target_ids.tolist() == [tokenizer.eos]
    assert torch.equal(batch.target_ids, batch.input_ids[batch.target_index + 1])
    assert batch.waveforms.abs().max() > 0
    assert torch.equal(batch.waveforms, empty_batch(tokenizer, STRIDE, DIM).waveforms)


def test_moving_a_batch_keeps_everything_else(dataset, tokenizer):
    batch = collate(load(dataset, tokenizer, Mode.OVER), tokenizer, STRIDE, DIM, "made")
    moved = batch.to("meta")
    on_host = {n for n, v in moved.model_inputs().items() if isinstance(v, torch.Tensor) and not v.is_meta}
    # The model reads them there: on a device every read would wait for it. Slices of dialogues alone have starts.
    assert on_host == set(ON_HOST) - {"waveform_starts"}
    assert moved.keys == batch.keys
    assert set(batch.model_inputs()) == {
        "waveforms", "waveform_lengths", "input_ids", "position_ids", "cu_seqlens", "audio_index",
        "speaker_vectors", "speaker_index", "target_index", "target_ids", "weight", "frame_masks", "mel_masks",
    }  # fmt: skip


def test_labels_are_the_names_in_the_target(dataset, tokenizer):
    for mode in Mode:
        loaded = load(dataset, tokenizer, mode)
        batch = collate(loaded, tokenizer, STRIDE, DIM, "made")
        said = tokenizer.tokenizer.decode(batch.target_ids[batch.labels].tolist())
        names = [item.planned.target_names for item in loaded]
        turns = [s.speaker for item in loaded for s in item.sample.segments]
        if mode is Mode.ASR:
            assert said == ""
        elif mode is Mode.NO:
            assert said.count("spk") == len(turns)
        else:
            wanted = [n[s.speaker] for item, n in zip(loaded, names, strict=True) for s in item.sample.segments]
            assert said.replace(" ", "") == "".join(wanted).replace(" ", "")
        assert "labels" not in batch.model_inputs()


def test_exchanged_voices_keep_to_their_sample_and_leave_their_names(dataset, tokenizer):
    loaded = load(dataset, tokenizer, Mode.MATCH)
    batch = collate(loaded, tokenizer, STRIDE, DIM, "made")
    exchanged, telling = batch.exchanged()
    sizes = [len(item.vectors) for item in loaded]
    assert 1 in sizes, "no sample with one registered speaker: nothing to exchange is not tested"
    assert max(sizes) > 1
    parts = zip(batch.speaker_vectors.split(sizes), exchanged.speaker_vectors.split(sizes), strict=True)
    for size, (true, moved) in zip(sizes, parts, strict=True):
        assert torch.equal(true.sort(0).values, moved.sort(0).values)
        assert [torch.equal(a, b) for a, b in zip(true, moved, strict=True)] == [size == 1] * size
    counts = [item.planned.targets for item in loaded]
    expected = [size > 1 for size, count in zip(sizes, counts, strict=True) for _ in range(count)]
    assert telling.tolist() == expected
    assert torch.equal(exchanged.input_ids, batch.input_ids)


def test_without_registered_speakers_nothing_is_exchanged(dataset, tokenizer):
    batch = collate(load(dataset, tokenizer, Mode.NO), tokenizer, STRIDE, DIM, "made")
    exchanged, telling = batch.exchanged()
    assert not telling.any()
    assert torch.equal(exchanged.speaker_vectors, batch.speaker_vectors)
