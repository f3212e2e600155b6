"""Stage 0 of the tiny recipe: small stand-ins for the public checkpoints that the paper starts from.

The paper begins with SenseVoice-large and Qwen2.5-7B-Instruct, which already hear and write. The tiny recipe has to
make such parts first, from the demo's own training data, in plain PyTorch:

- an **encoder** in SenseVoice's layout, by CTC on words and by predicting at every frame the embedding of who speaks;
  short single-speaker utterances first, since CTC from scratch does not start on long ones;
- an **LLM** in Qwen2.5's layout with its chat template, by text alone: prompts of the paper whose audio is a made-up
  stand-in (each word's own embedding, repeated, plus a speaker's direction and noise), to be written out by turns.

They load through the same code as the real checkpoints. Run as ``python -m pipeline.tiny DATA OUT``.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.names import POOLS
from pipeline.prompts import AudioPiece, Mode, PromptTokenizer, SpeakerPiece, prompt_pieces, target_pieces
from shards.audio import decode
from shards.errors import SpeakerLMError
from shards.index import open_dataset
from shards.reader import read_meta, read_sample
from shards.sample import Sample, Segment

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ENCODER_DIM, ENCODER_BLOCKS, ENCODER_TP_BLOCKS = 128, 4, 1
LLM_HIDDEN, LLM_LAYERS, LLM_HEADS = 128, 4, 4
SPEAKER_DIM = 192
NAMES = POOLS["tiny"]  # the tiny recipes draw from the same pool
MOST_VOICES = 8  # of one made-up conversation, registered ones included
FRAME_SECONDS = 0.06  # one encoder frame
LOG_EVERY = 50


# ---------------------------------------------------------------------------------------------------------- tokenizer


def words_by_language(data: Path) -> dict[str, list[str]]:
    """The words of the training utterances, by language; Chinese is cut into characters."""
    words: dict[str, set[str]] = {}
    dataset = open_dataset(str(data / "asr"))
    for shard in range(len(dataset.shards)):
        for meta in read_meta(dataset, shard):
            for segment in meta["segments"]:
                text = segment["text"]
                words.setdefault(meta["language"], set()).update(text if meta["language"] == "zh" else text.split())
    return {language: sorted(found) for language, found in sorted(words.items())}


def write_tokenizer(folder: Path, words: dict[str, list[str]]) -> PromptTokenizer:
    """Byte-level BPE in which every word, name and prompt word of the demo is one token."""
    from pipeline.model.checkpoints import make_tokenizer

    frame = [p.text for p in prompt_pieces(Mode.MATCH, ["x"]) + prompt_pieces(Mode.ASR) if hasattr(p, "text")]
    texts = [*frame, "system You are a helpful assistant. user assistant", "spk0 spk1 spk2 spk3"]
    texts += [f" {w}" for found in words.values() for w in found] + [w for found in words.values() for w in found]
    texts += NAMES
    make_tokenizer(folder, texts * 3, vocab_size=4000)
    return PromptTokenizer.from_folder(folder)


# ------------------------------------------------------------------------------------------------------------ encoder


@dataclass(frozen=True)
class Utterance:
    """One training example of the encoder."""

    features: Tensor  # (F, 560) before mean and variance
    tokens: list[int]
    voices: Tensor  # (F, 192) unit vector of who speaks, zero where nobody or several do
    speakers: int


def read_utterances(data: Path, name: str, tokenizer: PromptTokenizer) -> list[Utterance]:
    """All samples of a packed dataset as features and frame targets."""
    import torch

    from pipeline.model.checkpoints import FRONTEND_CONF
    from pipeline.model.frontend import Frontend

    frontend = Frontend([0.0] * 560, [1.0] * 560, FRONTEND_CONF)
    dataset, out = open_dataset(str(data / name)), []
    for shard, info in enumerate(dataset.shards):
        for row in range(info.samples):
            sample = read_sample(dataset, shard, row)
            wave = torch.from_numpy(decode(sample.audio))
            features, lengths = frontend(wave[None], [len(wave)])
            text = target_pieces(Mode.ASR, sample.segments, {})[0]
            tokens = [t for t in tokenizer.encode_piece(" " + text) if t < tokenizer.eos]
            voices = torch.from_numpy(frame_voices(sample, lengths[0]))
            out.append(Utterance(features[0, : lengths[0]], tokens, voices, len(sample.speakers)))
    return out


def frame_voices(sample: Sample, frames: int) -> np.ndarray:
    """(frames, 192) the speaker vector of the one person who speaks in each frame, else zeros."""
    voices = np.zeros((frames, SPEAKER_DIM), np.float32)
    count = np.zeros(frames, np.int64)
    if sample.embeddings is None:
        return voices
    for segment in sample.segments:
        at = slice(int(segment.start / FRAME_SECONDS), max(1, round(segment.end / FRAME_SECONDS)))
        voices[at] += sample.embeddings[sample.speakers.index(segment.speaker)]
        count[at] += 1
    voices[count != 1] = 0
    return voices


def train_encoder(data: Path, out: Path, steps: int, seed: int) -> None:
    """CTC and speaker prediction with a curriculum; writes the SenseVoice folder."""
    import torch
    from torch.nn import functional

    from pipeline.model.checkpoints import sensevoice_conf, write_sensevoice_folder
    from pipeline.model.encoder import FunasrEncoder

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = random.Random(seed)
    tokenizer = PromptTokenizer.from_folder(out / "llm")
    single, several = read_utterances(data, "asr", tokenizer), read_utterances(data, "simulated", tokenizer)
    single.sort(key=lambda u: len(u.tokens))
    stacked = torch.cat([u.features for u in single[:500] + several[:500]])
    shift, scale = -stacked.mean(0), 1 / stacked.std(0).clamp(min=1e-3)

    conf = sensevoice_conf(ENCODER_DIM, ENCODER_BLOCKS, ENCODER_TP_BLOCKS, ffn=2 * ENCODER_DIM)
    conf |= {"dropout_rate": 0.0, "positional_dropout_rate": 0.0, "attention_dropout_rate": 0.0}
    encoder = FunasrEncoder("SenseVoiceEncoderSmall", conf)
    blank = tokenizer.eos  # never a target
    head = torch.nn.Linear(ENCODER_DIM, blank + 1)
    voice = torch.nn.Linear(ENCODER_DIM, SPEAKER_DIM)
    parameters = [*encoder.parameters(), *head.parameters(), *voice.parameters()]

    def loss(step: int) -> Tensor:
        progress = step / steps
        if progress < 0.3:
            pool: Sequence[Utterance] = single[: len(single) // 2]
        elif progress < 0.5:
            pool = single
        else:
            pool = several if rng.random() < 0.7 else single
        batch = [rng.choice(pool) for _ in range(24)]
        lengths = [len(u.features) for u in batch]
        x = torch.nn.utils.rnn.pad_sequence([u.features for u in batch], batch_first=True)
        hidden = encoder((x + shift) * scale, lengths)
        log_probs = functional.log_softmax(head(hidden), -1).transpose(0, 1)
        targets = torch.tensor([t for u in batch for t in u.tokens])
        counts = torch.tensor([len(u.tokens) for u in batch])
        ctc = functional.ctc_loss(
            log_probs, targets, torch.tensor(lengths), counts, blank=blank, reduction="sum", zero_infinity=True
        ) / len(targets)
        voices = torch.nn.utils.rnn.pad_sequence([u.voices for u in batch], batch_first=True)
        spoken = voices.abs().sum(-1) > 0
        if not spoken.any():
            return ctc
        return ctc + 1 - functional.cosine_similarity(voice(hidden)[spoken], voices[spoken], dim=-1).mean()

    optimize("encoder", parameters, loss, steps, 1e-3)
    write_sensevoice_folder(
        out / "encoder", encoder.backbone.state_dict(), conf, shift=shift.tolist(), scale=scale.tolist()
    )


# ---------------------------------------------------------------------------------------------------------------- LLM


@dataclass(frozen=True)
class Text:
    """One training example of the LLM: a prompt with made-up audio, and what to write."""

    ids: list[int]
    target_from: int
    audio: list[tuple[int, int, int]]  # (position, token or -1, speaker)
    registered: list[tuple[int, int]]  # (position, speaker)


def make_text(rng: random.Random, tokenizer: PromptTokenizer, words: dict[str, list[str]], progress: float) -> Text:
    """A drawn conversation; short ones first, then what the simulated sets hold."""
    mode = Mode.ASR if progress < 0.3 else rng.choice([Mode.ASR, Mode.NO, Mode.MATCH, Mode.OVER])
    people = 1 if mode is Mode.ASR else rng.randint(1, 2) if progress < 0.55 else rng.randint(2, 4)
    turns = people if progress < 0.55 else rng.randint(people, 4)
    languages = [rng.choice(list(words)) for _ in range(people)]
    segments = []
    for i in range(turns):
        who = i if i < people else rng.randrange(people)
        text = [rng.choice(words[languages[who]]) for _ in range(rng.randint(1, 5 if mode is Mode.ASR else 3))]
        joined = ("" if languages[who] == "zh" else " ").join(text)
        segments.append(Segment(str(who), float(i), i + 1.0, joined))
    extra = rng.randint(1, 4) if mode is Mode.OVER else 0
    registered = list(range(people + extra)) if mode in (Mode.MATCH, Mode.OVER) else []
    rng.shuffle(registered)
    names = rng.sample(NAMES, len(registered))
    name_of = {str(who): name for who, name in zip(registered, names, strict=True)}
    return _lay_out(rng, tokenizer, mode, segments, registered, names, name_of)


def _lay_out(
    rng: random.Random,
    tokenizer: PromptTokenizer,
    mode: Mode,
    segments: Sequence[Segment],
    registered: Sequence[int],
    names: Sequence[str],
    name_of: dict[str, str],
) -> Text:
    ids: list[int] = []
    audio, vectors = [], []
    for item in tokenizer.encode_prompt(prompt_pieces(mode, names)):
        if isinstance(item, SpeakerPiece):
            vectors.append((len(ids), registered[item.slot]))
            ids.append(0)
        elif isinstance(item, AudioPiece):
            for segment in segments:
                heard = [t for t in tokenizer.encode_piece(" " + segment.text) for _ in range(rng.randint(2, 5))]
                for token in [*heard, *[-1] * rng.randint(0, 3)]:
                    audio.append((len(ids), token, int(segment.speaker)))
                    ids.append(0)
        else:
            ids.append(item)
    target = tokenizer.encode_target(target_pieces(mode, segments, name_of))
    return Text(ids + target, len(ids), audio, vectors)


def train_llm(out: Path, words: dict[str, list[str]], steps: int, seed: int) -> None:
    """Next-token prediction on the targets; writes the Hugging Face folder."""
    import torch
    from torch.nn import functional
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = random.Random(seed)
    tokenizer = PromptTokenizer.from_folder(out / "llm")
    config = Qwen2Config(
        vocab_size=len(tokenizer.tokenizer),
        hidden_size=LLM_HIDDEN,
        intermediate_size=2 * LLM_HIDDEN,
        num_hidden_layers=LLM_LAYERS,
        num_attention_heads=LLM_HEADS,
        num_key_value_heads=LLM_HEADS // 2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos,
        pad_token_id=tokenizer.pad,
    )
    model = Qwen2ForCausalLM(config)
    table = model.get_input_embeddings()

    def embed(texts: Sequence[Text], ids: Tensor) -> Tensor:
        """Token embeddings, with made-up audio and speaker vectors in their places; each step has its own voices."""
        voices = torch.randn(len(texts), MOST_VOICES, LLM_HIDDEN) * 0.25
        heard = torch.tensor([(row, *item) for row, text in enumerate(texts) for item in text.audio])
        row, at, token, speaker = heard.unbind(1)
        words = table(token.clamp(min=0)).detach() * 12 * (token >= 0).unsqueeze(1)
        sound = words + voices[row, speaker] + torch.randn(len(heard), LLM_HIDDEN) * 0.1
        out = table(ids).index_put((row, at), sound)
        if registered := [(row, *item) for row, text in enumerate(texts) for item in text.registered]:
            row, at, speaker = torch.tensor(registered).unbind(1)
            out = out.index_put((row, at), voices[row, speaker])
        return out

    def loss(step: int) -> Tensor:
        texts = [make_text(rng, tokenizer, words, step / steps) for _ in range(16)]
        length = max(len(t.ids) for t in texts)
        ids = torch.zeros(len(texts), length, dtype=torch.long)
        is_target, mask = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text.ids)] = torch.tensor(text.ids)
            is_target[row, text.target_from : len(text.ids)] = True
            mask[row, : len(text.ids)] = 1
        hidden = model.model(inputs_embeds=embed(texts, ids), attention_mask=mask, use_cache=False).last_hidden_state
        return functional.cross_entropy(model.lm_head(hidden[:, :-1][is_target[:, 1:]]), ids[:, 1:][is_target[:, 1:]])

    optimize("LLM", list(model.parameters()), loss, steps, 2e-3)
    model.save_pretrained(str(out / "llm"))


# --------------------------------------------------------------------------------------------------------------- both


def optimize(
    name: str, parameters: list[torch.nn.Parameter], loss: Callable[[int], Tensor], steps: int, peak: float
) -> None:
    """AdamW, linear warm-up over 5 %, cosine to 5 % of the peak rate; prints its progress."""
    import torch

    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.95), weight_decay=0.01)
    start, total = time.monotonic(), 0.0
    for step in range(steps):
        rate = min(1.0, (step + 1) / max(1, steps // 20)) * (0.525 + 0.475 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = peak * rate
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        total += value.item()
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            since = (step % LOG_EVERY) + 1
            seconds = time.monotonic() - start
            print(f"{name} step {step + 1}/{steps} loss {total / since:.3f} {seconds:.0f} s", flush=True)
            total = 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Make tokenizer, encoder and LLM, the latter two at the same time, a core each."""
    parser = argparse.ArgumentParser(description="Make tiny stand-ins for SenseVoice and Qwen2.5 (stage 0).")
    parser.add_argument("data", type=Path, help="folder with the packed datasets asr and simulated")
    parser.add_argument("out", type=Path, help="folder for encoder/ and llm/")
    parser.add_argument("--encoder-steps", type=int, default=500)
    parser.add_argument("--llm-steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        words = words_by_language(args.data)
        write_tokenizer(args.out / "llm", words)
    except SpeakerLMError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    spawn = multiprocessing.get_context("spawn")
    jobs: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
        (train_encoder, (args.data, args.out, args.encoder_steps, args.seed)),
        (train_llm, (args.out, words, args.llm_steps, args.seed)),
    ]
    processes = [spawn.Process(target=target, args=arguments) for target, arguments in jobs]
    for p in processes:
        p.start()
    for p in processes:
        p.join()
    if failed := [p.exitcode for p in processes if p.exitcode]:
        print(f"error: stage 0 failed with exit status {failed[0]}; see the lines above", file=sys.stderr)
        return 1
    (args.out / "done").write_text(json.dumps({"encoder_steps": args.encoder_steps, "llm_steps": args.llm_steps}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
