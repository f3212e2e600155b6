"""Stand-in for Qwen2.5: a small LLM that writes conversations and looks registered names up by their vectors.

Real LLMs of billions of parameters come with attention heads that look things up; this one has to get them within
minutes. It learns from made-up prompts (:mod:`pipeline.standins.exercises`). What decides whether it does
(docs/benchmarks/learning.md):

- Where its weights start. Query and key alike, value and output transposed, input and output table alike: equal things
  attend to each other and are copied on (Trockman and Kolter 2023, "Mimetic initialization of self-attention layers").
- What it may look at. A position behind the registration sees speaker vectors, but not the names before them.
- How loud vectors are. Where a vector's position has taken up its name, the vector must still be heard beside it.
- That every update holds exercises of several kinds: with one kind an update, names were not found.
- That attention is shown where to look while writing: at the audio of the next word. Otherwise this takes longest.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.prompts import PromptTokenizer
from pipeline.standins.exercises import MOST_VOICES, PAUSE, Text, draw_exercises, make_text
from pipeline.standins.optimize import optimize
from pipeline.standins.shown_attention import Shown, register

if TYPE_CHECKING:
    from torch import Tensor

HIDDEN, LAYERS, HEADS = 128, 4, 4
SPEAKER_DIM = 192
TABLE_STD, WEIGHT_STD = 0.25, 0.08  # of the input table and of everything else
WORD_GAIN, VOICE_GAIN, REGISTERED_GAIN = 2.0, 2.0, 4.0  # of what is heard, over TABLE_STD
HIDE_UNTIL, OPEN_FROM = 0.55, 0.8  # parts of the training: names hidden, then in half of the updates, then never
BESIDE = 0.3  # weight of the questions beside a transcript, and of exercises beside an update's conversations
POINT = 0.5  # weight of attention's question
POINT_LAYERS, POINT_HEADS = (2, 3), 2  # whose attention is asked: the heads that share the first key
READ_AFTER, MATCH_AFTER = 1, 2  # layers after which a vector must know its name, and an audio position who speaks
NUMBER_AFTER = 3  # the same without registration: new voices have to be counted first


def new_llm(tokenizer: PromptTokenizer) -> Any:
    """The model before training."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer.tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        initializer_range=WEIGHT_STD,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},  # Qwen2.5's
        bos_token_id=None,
        eos_token_id=tokenizer.eos,
        pad_token_id=tokenizer.pad,
    )
    model: Any = Qwen2ForCausalLM(config)
    model.set_attn_implementation(register())
    with torch.no_grad():
        table = model.get_input_embeddings().weight.normal_(std=TABLE_STD)
        model.lm_head.weight.copy_(table * (WEIGHT_STD / TABLE_STD))
        for layer in model.model.layers:
            own = layer.self_attn
            own.q_proj.weight.copy_(_per_query_head(own.k_proj.weight))
            own.o_proj.weight.copy_(_per_query_head(own.v_proj.weight).T)
            own.q_proj.bias.normal_()
            own.k_proj.bias.normal_()
    return model


def _per_query_head(weight: Tensor) -> Tensor:
    """(key heads × dim, H) → (heads × dim, H)."""
    dim = HIDDEN // HEADS
    return weight.view(-1, dim, HIDDEN).repeat_interleave(2, 0).reshape(-1, HIDDEN)


class MadeUpAudio:
    """Stands for encoder and audio projector: the input that a word said by a voice makes. Learned, then dropped.

    Words and voices add up, and a registered vector goes through the same map as a voice: what the two projectors of
    the real model have to find again.
    """

    def __init__(self, table: Tensor) -> None:
        import torch

        self.words = torch.nn.Embedding.from_pretrained(table.detach().clone(), freeze=False)
        self.voice = torch.nn.Linear(SPEAKER_DIM, HIDDEN, bias=False)
        torch.nn.init.normal_(self.voice.weight, std=TABLE_STD)

    def parameters(self) -> list[Any]:
        """The trained parameters."""
        return [*self.words.parameters(), *self.voice.parameters()]

    def put(self, embeds: Tensor, texts: Sequence[Text], noise: float, voices: Tensor | None = None) -> Tensor:
        """(B, L, H) token embeddings with audio and speaker vectors in their places.

        ``voices``: (B, MOST_VOICES, SPEAKER_DIM) unit vectors; None: drawn at random.
        """
        import torch
        from torch.nn import functional

        drawn = voices
        if drawn is None:
            drawn = functional.normalize(torch.randn(len(texts), MOST_VOICES, SPEAKER_DIM), dim=-1)

        def heard(row: Tensor, voice: Tensor) -> Tensor:  # (K, H)
            disturbed = drawn[row, voice] + torch.randn(len(row), SPEAKER_DIM) * (noise / SPEAKER_DIM**0.5)
            return self.voice(functional.normalize(disturbed, dim=-1))

        if audio := [(row, *item) for row, text in enumerate(texts) for item in text.audio]:
            row, at, token, voice = torch.tensor(audio).unbind(1)
            said = WORD_GAIN * self.words(token.clamp(min=0)) + VOICE_GAIN * heard(row, voice)
            sound = said * (token != PAUSE).unsqueeze(1) + 0.05 * torch.randn(len(row), HIDDEN)
            embeds = embeds.index_put((row, at), sound)
        if registered := [(row, *item) for row, text in enumerate(texts) for item in text.registered]:
            row, at, voice = torch.tensor(registered).unbind(1)
            embeds = embeds.index_put((row, at), REGISTERED_GAIN * heard(row, voice))
        return embeds


def attention_mask(texts: Sequence[Text], length: int, hide: bool) -> Tensor:
    """(B, 1, L, L) to be added to scores: causal; with ``hide`` also without the hidden positions for those
    behind a registration.

    Padding is on the right, where no earlier position looks.
    """
    import torch

    seen = torch.ones(length, length, dtype=torch.bool).tril().repeat(len(texts), 1, 1)
    for row, text in enumerate(texts if hide else ()):
        seen[row, text.seen_from :, text.hidden] = False
    return torch.zeros(seen.shape).masked_fill(~seen, -1e9).unsqueeze(1)


def text_loss(
    model: Any, audio: MadeUpAudio, texts: Sequence[Text], noise: float, hide: bool, voices: Tensor | None = None
) -> dict[str, Tensor]:
    """Mean cross-entropies: ``words`` of the targets, ``read`` at speaker vectors, ``match`` at audio positions, and
    ``point`` of attention over the positions where the next word is heard.
    """
    import torch
    from torch.nn import functional

    length = max(len(t.ids) for t in texts)
    ids = torch.zeros(len(texts), length, dtype=torch.long)
    is_target = torch.zeros_like(ids, dtype=torch.bool)
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = torch.tensor(text.ids)
        is_target[row, text.target_from : len(text.ids)] = True
    shown = Shown(POINT_LAYERS, POINT_HEADS) if bool(is_target.any()) else None
    passed = model.model(
        inputs_embeds=audio.put(model.get_input_embeddings()(ids), texts, noise, voices),
        attention_mask=attention_mask(texts, length, hide),
        use_cache=False,
        output_hidden_states=True,
        shown=shown,
    )
    states = passed.hidden_states
    after = [*(model.model.norm(s) for s in states[:-1]), states[-1]]  # the last is normalised already

    def asked(which: str, layers: Sequence[int]) -> Tensor | None:
        items = [(row, *item) for row, text in enumerate(texts) for item in getattr(text, which)]
        if not items:
            return None
        row, at, wanted = torch.tensor(items).unbind(1)
        losses = [functional.cross_entropy(model.lm_head(after[n][row, at]), wanted) for n in layers]
        return torch.stack(losses).mean()

    match = asked("asked_audio", range(MATCH_AFTER if texts[0].registered else NUMBER_AFTER, LAYERS + 1))
    losses = {"read": asked("asked_vectors", [READ_AFTER]), "match": match}
    if shown and match is not None:
        losses["match"] = BESIDE * match
    if shown:
        logits = model.lm_head(after[-1][:, :-1][is_target[:, 1:]])
        losses["words"] = functional.cross_entropy(logits, ids[:, 1:][is_target[:, 1:]])
        losses["point"] = POINT * pointing_loss(shown.weights, texts)
    return {name: value for name, value in losses.items() if value is not None}


def pointing_loss(attentions: Sequence[Tensor], texts: Sequence[Text]) -> Tensor:
    """Mean of -log of the attention that falls on the audio of the word that is about to be written.

    Args:
        attentions: (B, POINT_HEADS, L, L) of each layer that is asked; its heads answer together.
    """
    import torch

    rows, at, first, end = torch.tensor([(row, *p) for row, text in enumerate(texts) for p in text.pointed]).unbind(1)
    losses = []
    for weights in attentions:
        sums = torch.nn.functional.pad(weights.mean(1).cumsum(-1), (1, 0))[rows, at]  # (n, L + 1)
        there = sums.gather(1, end[:, None]) - sums.gather(1, first[:, None])
        losses.append(-there.clamp(min=1e-6).log().mean())
    return torch.stack(losses).mean()


def train_llm(
    out: Path,
    words: dict[str, list[str]],
    steps: int,
    seed: int,
    most_turns: int = 4,
    most_words: int = 3,
    no_share: float = 1 / 3,
) -> None:
    """Train and write the Hugging Face folder.

    Args:
        most_turns, most_words: of a made-up conversation, and of its turn.
        no_share: share of the conversations without registration.
    """
    import torch

    from pipeline.model.causal_lm import bars_on_terminals_only

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = random.Random(seed)
    tokenizer = PromptTokenizer.from_folder(out / "llm")
    model = new_llm(tokenizer)
    audio = MadeUpAudio(model.get_input_embeddings().weight)

    def loss(step: int) -> dict[str, Tensor]:
        progress = step / steps
        hide = progress < HIDE_UNTIL or (progress < OPEN_FROM and rng.random() < 0.5)
        exercises = draw_exercises(rng, progress, most_turns, most_words, no_share)
        heaviest = max(e.count for e in exercises)
        total: dict[str, Tensor] = {}
        for e in exercises:
            texts = [make_text(rng, tokenizer, words, e) for _ in range(e.count)]
            weight = 1.0 if e.count == heaviest else BESIDE
            for name, value in text_loss(model, audio, texts, e.noise, hide).items():
                total[name] = total.get(name, 0.0) + weight * value
        return total

    optimize("LLM", [*model.parameters(), *audio.parameters()], loss, steps, 2e-3)
    model.set_attn_implementation("sdpa")
    bars_on_terminals_only()
    model.save_pretrained(str(out / "llm"))
