"""Stand-in for Qwen2.5: a small model of its class and chat template, by next-token prediction on text alone.

Its prompts are the paper's; their audio is made up (each word's own embedding, repeated, plus a speaker's direction and
noise), to be written out by turns. It does not learn to look registered names up: :mod:`pipeline.learning.lookup`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.learning.optimize import optimize
from pipeline.learning.words import NAMES
from pipeline.prompts import AudioPiece, Mode, PromptTokenizer, SpeakerPiece, prompt_pieces, target_pieces
from shards.sample import Segment

if TYPE_CHECKING:
    from torch import Tensor

LLM_HIDDEN, LLM_LAYERS, LLM_HEADS = 128, 4, 4
MOST_VOICES = 8  # of one made-up conversation, registered ones included


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

    def losses(step: int) -> dict[str, Tensor]:
        texts = [make_text(rng, tokenizer, words, step / steps) for _ in range(16)]
        length = max(len(t.ids) for t in texts)
        ids = torch.zeros(len(texts), length, dtype=torch.long)
        is_target, mask = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text.ids)] = torch.tensor(text.ids)
            is_target[row, text.target_from : len(text.ids)] = True
            mask[row, : len(text.ids)] = 1
        hidden = model.model(inputs_embeds=embed(texts, ids), attention_mask=mask, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][is_target[:, 1:]])
        return {"words": functional.cross_entropy(logits, ids[:, 1:][is_target[:, 1:]])}

    optimize("LLM", list(model.parameters()), losses, steps, 2e-3)
    model.save_pretrained(str(out / "llm"))
