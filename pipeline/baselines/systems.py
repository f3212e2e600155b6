"""Systems that hear a clip and write who said what: model, protocol of an endpoint, format of the answer, prompt."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from shards.errors import ConfigError

PROMPTS = Path(__file__).with_name("prompts")
CHAT, TRANSCRIPTIONS = "chat/completions", "audio/transcriptions"


@dataclass(frozen=True, slots=True)
class System:
    """Way to ask a system and to read its answer."""

    model: str  # usual name at an endpoint
    protocol: str
    format: str  # of pipeline.evaluation.outputs, or "raw": lines ``NAME: text``
    prompt: str = ""  # name of a file of PROMPTS
    audio_url: bool = False  # audio as ``audio_url`` (vLLM) and not as ``input_audio`` (OpenAI)
    response_format: str = ""  # of transcriptions
    in_transformers: bool = False  # has a class there
    dialogue: bool = False  # asked by the loop of Speaker-Reasoner
    numbered: bool = False  # each later turn of the dialogue names its observation
    asks_itself: bool = False  # its chat template in transformers has the request


SYSTEMS = {
    "gemini": System("gemini-2.5-pro", CHAT, "gemini", "gemini"),
    "qwen2.5-omni": System("Qwen/Qwen2.5-Omni-7B", CHAT, "raw", "lines", audio_url=True, in_transformers=True),
    "qwen3-omni": System(
        "Qwen/Qwen3-Omni-30B-A3B-Instruct", CHAT, "raw", "lines", audio_url=True, in_transformers=True
    ),
    "vibevoice": System(
        "microsoft/VibeVoice-ASR",
        CHAT,
        "vibevoice",
        "vibevoice",
        audio_url=True,
        in_transformers=True,
        asks_itself=True,
    ),
    "soulx": System("Soul-AILab/SoulX-Transcriber", CHAT, "soulx", "soulx", audio_url=True),
    "granite": System("ibm-granite/granite-speech", CHAT, "granite", "granite", audio_url=True),
    "moss": System(
        "OpenMOSS-Team/MOSS-Transcribe-Diarize",
        TRANSCRIPTIONS,
        "moss",
        response_format="json",
        in_transformers=True,
        asks_itself=True,
    ),
    "speaker-reasoner": System(
        "ASLP-lab/Speaker-Reasoner", CHAT, "speaker-reasoner", "speaker-reasoner", audio_url=True, dialogue=True
    ),
    "speaker-reasoner-4194h": System(
        "ASLP-lab/Speaker-Reasoner-4194h",
        CHAT,
        "speaker-reasoner",
        "speaker-reasoner-4194h",
        audio_url=True,
        dialogue=True,
        numbered=True,
    ),
    "gpt-4o-transcribe-diarize": System(
        "gpt-4o-transcribe-diarize", TRANSCRIPTIONS, "openai-diarized", response_format="diarized_json"
    ),
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text of a prompt; ``{duration}`` is the clip's in seconds."""

    text: str

    @property
    def sha256(self) -> str:
        """Return the hash of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def of(self, seconds: float) -> str:
        """Return the prompt for a clip.

        Raises:
            ConfigError: the text has another field in braces.
        """
        try:
            return self.text.format(duration=seconds)
        except (LookupError, ValueError) as e:
            raise ConfigError(f"the prompt has a field other than {{duration}} ({e}); double other braces") from e


def load_prompt(system: System, file: Path | None, local: bool = False) -> Prompt:
    """Return the prompt of a file, else the system's own; empty if the system takes none.

    Args:
        local: the model is run by transformers, whose chat template may ask by itself.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = file or (PROMPTS / f"{system.prompt}.txt" if system.prompt and not (local and system.asks_itself) else None)
    if path is None:
        return Prompt("")
    try:
        return Prompt(path.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"--prompt {path}: cannot be read ({e})") from e
