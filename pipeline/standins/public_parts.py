"""Fetch Whisper-base's encoder and SmolLM2-135M-Instruct by package name, and write them as recipes take them.

    python -m pipeline.standins.public_parts models     # models/whisper-base, models/smollm2-135m

Packages are fetched by pip at pinned versions, their sha256 is checked, nothing of them is installed or run. Weights
are OpenAI's (MIT) and Hugging Face's (Apache-2.0). Existing folders are kept.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from shards.commands.parser import Parser
from shards.errors import ModelError, SpeakerLMError

WHISPER, LLM = "whisper-base", "smollm2-135m"


def write_parts(out: Path, cache: Path | None = None) -> None:
    """Write both folders; each appears whole or not at all.

    Args:
        out: folder for ``whisper-base`` and ``smollm2-135m``.
        cache: of package files.

    Raises:
        FetchError: a package is not in the cache and cannot be downloaded.
        ModelError: the LLM's file cannot be read.
    """
    for name, write in ((WHISPER, write_whisper), (LLM, write_smollm2)):
        if (out / name).is_dir():
            continue
        partial = out / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        write(partial, cache)
        partial.rename(out / name)


def write_whisper(folder: Path, cache: Path | None = None) -> None:
    """Whisper-base's encoder, fp16 as in the package, in Whisper's layout of transformers."""
    from pipeline.model.encoders.whisper import whisper_conf
    from pipeline.standins.ctranslate2_file import whisper_encoder
    from pipeline.standins.encoder_folders import write_whisper_folder
    from shards.weights.package_weights import whisper_base

    state = whisper_encoder(whisper_base(cache) / "model.bin")
    write_whisper_folder(folder, state, whisper_conf(512, 6, 8))


def write_smollm2(folder: Path, cache: Path | None = None) -> None:
    """SmolLM2-135M-Instruct, out of Q4_1 into bf16, with tokenizer and chat template.

    Raises:
        ModelError: transformers cannot read the file; it needs the package gguf.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from pipeline.prompts import PromptTokenizer
    from shards.weights.package_weights import smollm2

    path = smollm2(cache)
    where: dict[str, Any] = {"gguf_file": path.name}
    plain = GgufConfig(dequantize=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), **where)
        packaged = AutoModelForCausalLM.from_pretrained(
            str(path.parent), dtype=torch.bfloat16, quantization_config=plain, **where
        )
    except (ImportError, OSError, ValueError) as e:
        raise ModelError(f"{path}: {e}; reading it needs pip install 'speakerlm-pretrain[small]'") from e
    PromptTokenizer(tokenizer)  # has what prompts need
    config = packaged.config
    if hasattr(config, "quantization_config"):  # a model that was quantised cannot be saved, though it is not any more
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(packaged.state_dict())
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def main() -> None:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the two models")
    parser.add_argument(
        "--cache", type=Path, help="folder of package files (default: SPEAKERLM_CACHE, or ~/.cache/speakerlm)"
    )
    args = parser.parse_args()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        write_parts(args.out, args.cache)
    except SpeakerLMError as e:
        sys.exit(f"error: {e}")
    print(f"{args.out / WHISPER} {args.out / LLM}")


if __name__ == "__main__":
    main()
