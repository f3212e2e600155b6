"""Audio positions that are asked who speaks: where they lie, and what the packed tensors say of them."""

from __future__ import annotations

import pytest
import torch

from pipeline.data.collate import collate
from pipeline.data.loader import SampleReader
from pipeline.data.speaker_probes import probe_positions
from pipeline.prompts import Mode, PromptTokenizer
from shards.sample import Segment
from tests.support.datasets import make_dataset
from tests.support.planning import packed_plan, samples_of
from tests.support.tiny import TEXTS, make_tokenizer

STRIDE, DIM = 2, 192  # a position is 0.12 s


def test_probes_are_spread_evenly_over_positions_where_the_speaker_speaks_alone() -> None:
    turns = [Segment("a", 0.0, 1.2, "x"), Segment("b", 0.95, 2.4, "y")]
    assert probe_positions(turns, 30, STRIDE, 100) == [(p, "a") for p in range(7)] + [(p, "b") for p in range(10, 20)]
    assert probe_positions(turns, 30, STRIDE, 3) == [(0, "a"), (3, "a"), (6, "a"), (10, "b"), (14, "b"), (19, "b")]
    assert probe_positions(turns, 12, STRIDE, 100)[-2:] == [(10, "b"), (11, "b")], "the audio ends"
    assert probe_positions([*turns, Segment("c", 0.0, 3.0, "z")], 30, STRIDE, 2) == [(20, "c"), (24, "c")]
    assert probe_positions([Segment("a", 0.05, 0.1, "x")], 30, STRIDE, 2) == [], "shorter than a position"


def test_a_faster_playback_moves_the_positions() -> None:
    turn = [Segment("a", 1.2, 2.4, "x")]
    assert [p for p, _ in probe_positions(turn, 30, STRIDE, 100, speed=1.0)] == list(range(10, 20))
    assert [p for p, _ in probe_positions(turn, 30, STRIDE, 100, speed=2.0)] == list(range(5, 10))


@pytest.mark.parametrize("mode", list(Mode))
def test_the_target_of_a_probe_is_the_speaker_of_its_position(tmp_path, mode: Mode) -> None:
    tokenizer = PromptTokenizer.from_folder(make_tokenizer(tmp_path / "tokenizer", TEXTS))
    dataset = make_dataset(tmp_path / "data", samples=8)
    plan = packed_plan([dataset], tokenizer, registration=mode is not Mode.ASR, modes=(mode,))
    reader = SampleReader([dataset], tokenizer, STRIDE, DIM)
    loaded = [reader.load(p) for p in samples_of(list(plan))[:4]]
    plain = collate(loaded, tokenizer, STRIDE, DIM, "made")
    batch = collate(loaded, tokenizer, STRIDE, DIM, "made", questions=2)
    n = len(plain.target_ids)
    assert torch.equal(batch.input_ids, plain.input_ids), "nothing is written into the input"
    assert torch.equal(batch.target_index[:n], plain.target_index)
    assert torch.equal(batch.target_ids[:n], plain.target_ids)
    asked = list(zip(batch.target_index[n:].tolist(), batch.target_ids[n:].tolist(), strict=True))
    if mode is Mode.ASR:
        assert not asked
        return
    assert batch.num_targets == n + len(asked)
    audio = set(batch.audio_index.tolist())
    for row, item in enumerate(loaded):
        begin, end = batch.cu_seqlens[row : row + 2].tolist()
        first = min(p for p in audio if begin <= p < end)
        here = [(p - first, token) for p, token in asked if begin <= p < end]
        assert 0 < len(here) <= 2 * len(item.sample.segments)
        for position, token in here:
            middle = (position + 0.5) * 0.12
            (speaker,) = {s.speaker for s in item.sample.segments if s.start <= middle < s.end}
            order = list(item.sample.speakers)
            label = f"spk{order.index(speaker)}" if mode is Mode.NO else item.planned.target_names[speaker]
            assert token == tokenizer.encode_piece(label)[-1 if mode is Mode.NO else 0]
