"""Language models for correction: any of transformers', or an endpoint that speaks OpenAI's protocol"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.baselines.http_post import post
from pipeline.prompts import chat_ids
from shards.errors import ConfigError, ModelError


class Llm(Protocol):
    """A language model as correction uses it."""

    @property
    def id(self) -> str:
        """As tables call it."""
        ...

    def ask(self, system: str, user: str, most_tokens: int) -> str:
        """An answer, at most so long."""
        ...


class Transformers:
    """A causal LM with a chat template, greedy: a folder, an id on Hugging Face, a ``.gguf`` file, a run of stage 0."""

    def __init__(self, source: str, device: str = "cpu") -> None:
        """Load it.

        Raises:
            ModelError: it cannot be loaded, or has no chat template.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        path = Path(source)
        self._tokenizer: Any
        model: Any
        if (path / "config.yaml").exists():
            from pipeline.baselines.trained_corrector import load_corrector

            dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
            model, self._tokenizer, self.id = load_corrector(path, dtype)
            self._model = model.to(device)
            return
        where: dict[str, Any] = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
        folder = str(path.parent) if where else source
        self.id = path.stem if where else path.name
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **where)
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **where)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{source}: no causal LM that transformers can load ({type(error).__name__}: {reason}); give a folder, "
                "an id on Hugging Face, or a .gguf file (which needs pip install gguf)"
            ) from error
        self._model = model.to(device).eval()
        if not self._tokenizer.chat_template:
            raise ModelError(f"{source}: its tokenizer has no chat template; use an instruct model")

    def ask(self, system: str, user: str, most_tokens: int) -> str:
        """See :class:`Llm`."""
        import torch

        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        asked = torch.tensor([chat_ids(self._tokenizer, messages)], device=self._model.device)
        with torch.inference_mode():
            ids = self._model.generate(
                asked, attention_mask=torch.ones_like(asked), max_new_tokens=most_tokens, do_sample=False,
                temperature=None, top_p=None, top_k=None, pad_token_id=self._tokenizer.eos_token_id,
            )  # fmt: skip
        answer: str = self._tokenizer.decode(ids[0, asked.shape[1] :], skip_special_tokens=True)
        return answer.strip()


@dataclass
class Endpoint:
    """``POST URL/chat/completions``, temperature 0, retried with growing waits where the server is busy or away."""

    url: str  # such as https://api.openai.com/v1 or http://localhost:8000/v1
    model: str
    key: str | None = field(default=None, repr=False)
    timeout_s: float = 120.0  # for connecting, and between two pieces of an answer
    attempts: int = 5
    sleep: Callable[[float], None] = time.sleep

    @property
    def id(self) -> str:
        """The model's name there."""
        return self.model

    def ask(self, system: str, user: str, most_tokens: int) -> str:
        """See :class:`Llm`.

        Raises:
            ModelError: the server refuses, or does not answer after all attempts.
        """
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": most_tokens}
        why = ""
        for attempt in range(self.attempts):
            answer = post(self.url, "chat/completions", json.dumps(body).encode(), self.key, self.timeout_s)
            if answer.status == 200:
                return self._content(answer.text)
            why = answer.why
            if answer.refused:
                break
            if attempt + 1 < self.attempts:
                self.sleep(answer.wait_s(attempt))
        raise ModelError(f"{self.url} gave no answer of {self.model}: {why}")

    def _content(self, text: str) -> str:
        try:
            content = json.loads(text)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ModelError(f"{self.url} answered {text[:200]!r}: not in the protocol of chat completions") from error
        return str(content or "").strip()


def load_llm(source: str, model: str | None, key: str | None, device: str, cache: Path | None = None) -> Llm:
    """``smollm2`` (out of a package), ``http(s)://…`` with a model's name, or what :class:`Transformers` takes.

    Raises:
        ConfigError: an endpoint without a model's name.
        ModelError, FetchError: it cannot be loaded.
    """
    if source.startswith(("http://", "https://")):
        if not model:
            raise ConfigError(f"{source}: say which model to ask there (--llm-model)")
        return Endpoint(source, model, key)
    if source == "smollm2":
        from shards.weights.package_weights import smollm2

        return Transformers(str(smollm2(cache)), device)
    return Transformers(source, device)
