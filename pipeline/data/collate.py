"""Pack the samples of a micro-batch into the model's input tensors.

LLM positions are packed without padding; only waveforms are padded. Lengths are checked against the plan: a difference
would break the budgets, so it stops the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data.dialogue_batch import part_weights, slice_of, turns_of, words_of
from pipeline.data.planned import PlannedSample
from pipeline.data.speaker_probes import answer_token, probe_positions
from pipeline.encoder_calls import partition_audios
from pipeline.frames import HOP_SAMPLES, LFR_SHIFT, Stride, audio_positions
from pipeline.prompts import (
    AudioPiece,
    Layout,
    Mode,
    Part,
    Prompt,
    PromptTokenizer,
    SpeakerPiece,
    WordsPiece,
    prompt_pieces,
    speaker_labels,
    target_pieces,
)
from pipeline.recipe.schema import DataConfig, DialogueConfig
from pipeline.stages import Task
from shards.errors import PlanError
from shards.sample import SAMPLE_RATE, Sample

ON_HOST = ("waveform_lengths", "waveform_starts", "cu_seqlens")
UNSEEN = ("labels", "parts")  # by the model; validation reads labels on the host
_EMPTY_SAMPLES = SAMPLE_RATE // 2
_EMPTY_NAME = "spk"
_PLACES = {part: place for place, part in enumerate(Part)}


def _no_spans() -> np.ndarray:
    return np.zeros((0, 2), np.int64)


@dataclass(frozen=True)
class LoadedSample:
    """A planned sample with its audio and the vectors of its registered speakers."""

    planned: PlannedSample
    sample: Sample
    wave: np.ndarray  # (S,) float32 in [-1, 1]
    vectors: np.ndarray  # (registered, dim) float32, in prompt order
    frame_masks: np.ndarray = field(default_factory=_no_spans)  # int64 (K, 2), see pipeline/model/specaugment.py
    mel_masks: np.ndarray = field(default_factory=_no_spans)
    cached: tuple[tuple[Sample, np.ndarray], ...] = ()  # earlier clips of a dialogue's session, with their audio

    def prompt(self) -> Prompt:
        """Prompt of this sample, for generation."""
        assert isinstance(self.planned.mode, Mode)
        pieces = tuple(prompt_pieces(self.planned.mode, self.planned.names, self.planned.context))
        return Prompt(pieces, self.wave, self.vectors if len(self.vectors) else None)


@dataclass(frozen=True)
class Batch:
    """A micro-batch, packed. A audios, L positions, B samples, P audio positions, R speakers, T targets."""

    waveforms: Tensor | tuple[Tensor, ...]  # float32 (A, S), zeros on the right; of dialogues one for each encoder call
    waveform_lengths: Tensor  # int64 (A,), samples; over all calls
    input_ids: Tensor  # int64 (L,), 0 at audio and speaker positions
    position_ids: Tensor  # int64 (L,), from 0 in every sample
    cu_seqlens: Tensor  # int32 (B + 1,)
    audio_index: Tensor  # int64 (P,), positions of the audios' embeddings, in order of audios and time
    speaker_vectors: Tensor  # float32 (R, dim), R >= 1: one row of zeros if no speaker is registered
    speaker_index: Tensor  # int64 (R,) their positions; (0,) with the row of zeros
    target_index: Tensor  # int64 (T,), positions whose output predicts a target: the ones before them; questions last
    target_ids: Tensor  # int64 (T,)
    frame_masks: Tensor  # int64 (A, K, 2), spans of encoder frames that SpecAugment masks
    mel_masks: Tensor  # int64 (A, K, 2), and of mel channels
    labels: Tensor  # bool (T,), targets that are part of a speaker's label; the model does not see it
    weight: float  # 0.0: an empty micro-batch, run for its calls alone
    mode: Mode | Task
    keys: tuple[str, ...]
    audio_seconds: float
    dataset: str
    target_weights: Tensor | None = None  # float32 (T,), factors on the targets' losses; None: all 1
    parts: Tensor | None = None  # int8 (T,) of dialogues: the part of the target, as its place in Part
    unused_audio: int = 0  # audio positions of dummies, which come last and go nowhere
    waveform_starts: Tensor | None = None  # int64 (A,) of dialogues: of each slice in its clip, samples; -1: elsewhere

    @property
    def num_targets(self) -> int:
        """Target tokens that count in the loss of the step."""
        return len(self.target_ids) if self.weight else 0

    @property
    def num_positions(self) -> int:
        """LLM positions that come from the data."""
        return len(self.input_ids) if self.weight else 0

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Copy to another device, except what the model reads on the host: there each read would wait."""
        moved = {
            n: _each(t, lambda t: t.to(device, non_blocking=non_blocking))
            for n, t in self._tensors().items()
            if n not in (*ON_HOST, "labels")
        }
        return replace(self, **moved)  # type: ignore[arg-type]

    def pin_memory(self) -> Batch:
        """Copy to page-locked memory."""
        pinned = {n: _each(t, Tensor.pin_memory) for n, t in self._tensors().items()}
        return replace(self, **pinned)  # type: ignore[arg-type]

    def model_inputs(self) -> dict[str, Any]:
        """Arguments of the model's forward."""
        inputs = {n: t for n, t in self._tensors().items() if n not in UNSEEN}
        return {**inputs, "weight": self.weight, **({"unused_audio": self.unused_audio} if self.unused_audio else {})}

    def exchanged(self) -> tuple[Batch, Tensor]:
        """Give each registered name the voice of the name before it in its prompt.

        Returns:
            The micro-batch with exchanged vectors, and (T,) bool: targets of samples with two or more registered
            speakers. Only they show whether the model reads the vectors.
        """
        ends = self.cu_seqlens[1:]
        of_voice = torch.bucketize(self.speaker_index, ends, right=True)
        of_target = torch.bucketize(self.target_index, ends, right=True)
        source, several = torch.arange(len(self.speaker_vectors)), torch.zeros(len(ends), dtype=torch.bool)
        for sample in of_voice.unique().tolist():
            rows = (of_voice == sample).nonzero().flatten()
            source[rows] = rows.roll(1)
            several[sample] = len(rows) > 1
        return replace(self, speaker_vectors=self.speaker_vectors[source]), several[of_target]

    def _tensors(self) -> dict[str, Tensor | tuple[Tensor, ...]]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {n: v for n, v in values.items() if isinstance(v, Tensor) or (n == "waveforms" and isinstance(v, tuple))}


def _each(value: Tensor | tuple[Tensor, ...], change: Callable[[Tensor], Tensor]) -> Tensor | tuple[Tensor, ...]:
    return tuple(change(t) for t in value) if isinstance(value, tuple) else change(value)


@dataclass
class _Packed:
    """Lists that grow sample by sample."""

    ids: list[int]
    starts: list[int]  # boundaries of samples
    audio: list[int]
    rows: list[tuple[np.ndarray, int, int]]  # each audio, how many of the positions above are its, its start
    speakers: list[int]
    targets: list[int]  # positions of target tokens
    questions: list[tuple[int, int]]  # (audio position, token that says who speaks)
    labels: list[bool]  # of each target: whether it is part of a speaker's label
    weights: list[float]  # of each target, of dialogues
    parts: list[int]  # the same

    @classmethod
    def empty(cls) -> _Packed:
        """Without a sample."""
        return cls([], [0], [], [], [], [], [], [], [], [])


def collate(
    loaded: Sequence[LoadedSample],
    tokenizer: PromptTokenizer,
    stride: Stride,
    speaker_dim: int,
    dataset: str,
    questions: int = 0,
    dialogue: DialogueConfig | None = None,
    encoder_calls: int = 1,
) -> Batch:
    """Pack loaded samples of one mode.

    Args:
        questions: see pipeline/data/speaker_probes.py.
        dialogue: rules and weights of dialogues.
        encoder_calls: calls that the audios are shared among, see pipeline/data/slices.py.

    Raises:
        PlanError: a sample has other lengths than were planned.
    """
    packed = _Packed.empty()
    for item in loaded:
        if isinstance(item.planned.mode, Task):
            _append_dialogue(packed, item, tokenizer, stride, dialogue or DialogueConfig())
        else:
            _append(packed, item, tokenizer, stride, questions)
    waveforms, wave_lengths, wave_starts, audio_index, unused = _audio_rows(packed, encoder_calls, stride)
    vectors = [item.vectors for item in loaded if len(item.vectors)]
    targets = torch.tensor(packed.targets, dtype=torch.int64)
    asked = torch.tensor(packed.questions, dtype=torch.int64).view(-1, 2)
    input_ids = torch.tensor(packed.ids, dtype=torch.int64)
    cu_seqlens = torch.tensor(packed.starts, dtype=torch.int32)
    lengths = cu_seqlens.diff()
    return Batch(
        waveforms=waveforms,
        waveform_lengths=wave_lengths,
        input_ids=input_ids,
        position_ids=torch.arange(len(input_ids)) - cu_seqlens[:-1].long().repeat_interleave(lengths),
        cu_seqlens=cu_seqlens,
        audio_index=audio_index,
        speaker_vectors=torch.from_numpy(np.concatenate(vectors)) if vectors else torch.zeros(1, speaker_dim),
        speaker_index=torch.tensor(packed.speakers, dtype=torch.int64),
        target_index=torch.cat([targets - 1, asked[:, 0]]),
        target_ids=torch.cat([input_ids[targets], asked[:, 1]]),
        frame_masks=_masks([item.frame_masks for item in loaded], len(wave_lengths)),
        mel_masks=_masks([item.mel_masks for item in loaded], len(wave_lengths)),
        labels=torch.tensor([*packed.labels, *([False] * len(packed.questions))], dtype=torch.bool),
        weight=1.0,
        mode=loaded[0].planned.mode,
        keys=tuple(item.planned.key for item in loaded),
        audio_seconds=sum(len(item.wave) for item in loaded) / SAMPLE_RATE,
        dataset=dataset,
        target_weights=torch.tensor(packed.weights) if any(w != 1 for w in packed.weights) else None,
        parts=torch.tensor(packed.parts, dtype=torch.int8) if packed.parts else None,
        unused_audio=unused,
        waveform_starts=wave_starts if packed.parts else None,
    )


def _audio_rows(
    packed: _Packed, calls: int, stride: Stride
) -> tuple[Tensor | tuple[Tensor, ...], Tensor, Tensor, Tensor, int]:
    """Waveforms, their lengths and starts by encoder call, where their positions go, and how many are of dummies."""
    waves = [wave for wave, _, _ in packed.rows]
    stops = np.cumsum([0, *(count for _, count, _ in packed.rows)]).tolist()
    groups = partition_audios([len(wave) for wave in waves], calls)
    order = [i for group in groups for i in group]
    index = [packed.audio[k] for i in order for k in range(stops[i], stops[i + 1])]
    lengths = [len(waves[i]) for i in order]
    starts = [packed.rows[i][2] for i in order]
    tensors = [_pad([waves[i] for i in group]) for group in groups]
    dummies = max(0, calls - len(groups))
    tensors += [torch.from_numpy(_noise())[None] for _ in range(dummies)]
    lengths += [_EMPTY_SAMPLES] * dummies
    starts += [0] * dummies
    waveforms = tensors[0] if calls == 1 else tuple(tensors)
    unused = dummies * audio_positions(_EMPTY_SAMPLES, stride)
    return waveforms, torch.tensor(lengths), torch.tensor(starts), torch.tensor(index, dtype=torch.int64), unused


def batch_bytes(data: DataConfig) -> int:
    """Return the most bytes that a micro-batch within the budgets has, generously: a bound on memory, not a size."""
    audio = data.max_frames * LFR_SHIFT * HOP_SAMPLES * 4
    return round(1.1 * audio) + 512 * data.max_positions + (1 << 20)  # a speaker's vector of 256 takes two positions


def _noise() -> np.ndarray:
    """Half a second of fixed low noise."""
    return 1e-3 * np.random.Generator(np.random.Philox(key=0)).standard_normal(_EMPTY_SAMPLES, dtype=np.float32)


def empty_batch(tokenizer: PromptTokenizer, stride: Stride, speaker_dim: int, encoder_calls: int = 1) -> Batch:
    """Micro-batch of a rank that has none left in a step: half a second of fixed low noise, one registered speaker, one
    target token, weight 0. It runs through every module, as a real one does."""
    layout = tokenizer.encode_prompt(prompt_pieces(Mode.MATCH, [_EMPTY_NAME]))
    packed = _Packed.empty()
    _append_prompt(packed, layout, _noise(), audio_positions(_EMPTY_SAMPLES, stride))
    waveforms, wave_lengths, _, audio_index, unused = _audio_rows(packed, encoder_calls, stride)
    end = len(packed.ids)
    input_ids = torch.tensor([*packed.ids, tokenizer.eos])
    return Batch(
        waveforms=waveforms,
        waveform_lengths=wave_lengths,
        input_ids=input_ids,
        position_ids=torch.arange(end + 1),
        cu_seqlens=torch.tensor([0, end + 1], dtype=torch.int32),
        audio_index=audio_index,
        speaker_vectors=torch.full((1, speaker_dim), speaker_dim**-0.5),
        speaker_index=torch.tensor(packed.speakers),
        target_index=torch.tensor([end - 1]),
        target_ids=input_ids[-1:],
        frame_masks=torch.zeros((len(wave_lengths), 0, 2), dtype=torch.int64),
        mel_masks=torch.zeros((len(wave_lengths), 0, 2), dtype=torch.int64),
        labels=torch.zeros(1, dtype=torch.bool),
        weight=0.0,
        mode=Mode.MATCH,
        keys=(),
        audio_seconds=0.0,
        dataset="",
        unused_audio=unused,
    )


def _append(packed: _Packed, item: LoadedSample, tokenizer: PromptTokenizer, stride: Stride, questions: int) -> None:
    planned = item.planned
    assert isinstance(planned.mode, Mode)
    start = len(packed.ids)
    layout = tokenizer.encode_prompt(prompt_pieces(planned.mode, planned.names, planned.context))
    audio = audio_positions(len(item.wave), stride)
    first_audio = len(packed.audio)
    _append_prompt(packed, layout, item.wave, audio)
    if questions and isinstance(stride, int) and planned.mode is not Mode.ASR:
        labels = speaker_labels(planned.mode, item.sample.segments, planned.target_names)
        for at, speaker in probe_positions(item.sample.segments, audio, stride, questions, planned.speed):
            token = answer_token(tokenizer, planned.mode, labels[speaker])
            packed.questions.append((packed.audio[first_audio + at], token))
    pieces = target_pieces(planned.mode, item.sample.segments, planned.target_names)
    target: list[int] = []
    for i, ids in enumerate(tokenizer.encode_target_pieces(pieces)):
        target += ids
        packed.labels += [planned.mode is not Mode.ASR and i % 3 == 0] * len(ids)  # label, colon, text, label, …
    target.append(tokenizer.eos)
    packed.labels.append(False)
    packed.targets += range(len(packed.ids), len(packed.ids) + len(target))
    packed.ids += target
    packed.starts.append(len(packed.ids))
    _check_lengths(planned, (len(packed.ids) - start, len(target), len(item.vectors)))


def _append_dialogue(
    packed: _Packed, item: LoadedSample, tokenizer: PromptTokenizer, stride: Stride, config: DialogueConfig
) -> None:
    start, first_target = len(packed.ids), len(packed.targets)
    samples = [item.sample, *(sample for sample, _ in item.cached)]
    waves = [item.wave, *(wave for _, wave in item.cached)]
    weights = part_weights(config)
    for number, turn in enumerate(turns_of(item.planned, samples, config)):
        for piece in tokenizer.encode_turn(turn.pieces, number == 0, lambda p: words_of(p, samples)):
            if isinstance(piece, AudioPiece):
                wave = slice_of(piece, waves)
                start_sample = -1 if piece.clip else piece.start
                _append_audio(packed, wave, audio_positions(len(wave), stride), start_sample)
            elif isinstance(piece, SpeakerPiece):
                raise PlanError(f"sample {item.planned.key}: a dialogue has no speaker vectors")
            else:
                packed.ids.append(piece)
        for part in turn.target:
            text, kind = (
                (words_of(part, samples), Part.TEXT) if isinstance(part, WordsPiece) else (part.text, part.part)
            )
            ids = tokenizer.encode_piece(text) if isinstance(part, WordsPiece) else tokenizer.encode_common(text)
            _append_target(packed, ids, kind, weights[kind])
        _append_target(packed, [tokenizer.eos], Part.TEXT, 1.0)
    packed.starts.append(len(packed.ids))
    _check_lengths(item.planned, (len(packed.ids) - start, len(packed.targets) - first_target, 0))


def _append_target(packed: _Packed, ids: Sequence[int], part: Part, weight: float) -> None:
    packed.targets += range(len(packed.ids), len(packed.ids) + len(ids))
    packed.ids += ids
    packed.labels += [part is Part.LABEL] * len(ids)
    packed.parts += [_PLACES[part]] * len(ids)
    packed.weights += [weight] * len(ids)


def _check_lengths(planned: PlannedSample, actual: tuple[int, int, int]) -> None:
    expected = planned.positions, planned.targets, len(planned.names)
    if actual != expected:
        raise PlanError(
            f"sample {planned.key} ({planned.mode}): (positions, target tokens, registered speakers) are {actual}, "
            f"planned were {expected}; the stored token lengths are of other data or another tokenizer: delete "
            "the .lengths-*.parquet and .dialogue-*.parquet files and start again"
        )


def _append_audio(packed: _Packed, wave: np.ndarray, positions: int, start: int = 0) -> None:
    packed.rows.append((wave, positions, start))
    packed.audio += range(len(packed.ids), len(packed.ids) + positions)
    packed.ids += [0] * positions


def _append_prompt(packed: _Packed, layout: Layout, wave: np.ndarray, audio: int) -> None:
    for piece in layout:
        if isinstance(piece, AudioPiece):
            _append_audio(packed, wave, audio)
        elif isinstance(piece, SpeakerPiece):
            packed.speakers.append(len(packed.ids))
            packed.ids.append(0)
        else:
            packed.ids.append(piece)


def _masks(spans: Sequence[np.ndarray], audios: int) -> Tensor:
    """(A, K, 2) spans of each sample's one audio; dialogues have none."""
    if len(spans) != audios:
        return torch.zeros((audios, 0, 2), dtype=torch.int64)
    return torch.from_numpy(np.stack(spans))


def _pad(waves: Sequence[np.ndarray]) -> Tensor:
    """(A, longest) with zeros on the right."""
    out = torch.zeros(len(waves), max(len(w) for w in waves))
    for row, wave in zip(out, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    return out
