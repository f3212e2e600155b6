"""The 7B recipe's step with its real numbers of modules and parameters, at small widths: what the host does for it.

A bare AdamW, ZeRO-2 and ZeRO-3 through the engine that trains. Counts collectives and module fetches by phase, and
times the main thread: its CPU seconds are what a GPU would wait for.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_parts import LORA
from benchmarks.micro_batches import clips, full, micro_batch
from pipeline.recipe.shipped import CHECKOUT

LAYERS, BLOCKS, LATE_BLOCKS = 28, 50, 20  # of Qwen2.5-7B and SenseVoiceSmall
VOCABULARY, SPEAKER_DIM, POSITIONS = 500, 192, 30
WIDTH, ENCODER_WIDTH = 256, 16  # so that the encoder's tensors are smaller than the LLM's, as in the recipe
WHOLE = 30_000  # elements; as ds_configs/zero3.json separates them: all of the encoder and LoRA, none of the LLM's
LAYER_7B, TRAINED_7B = 233e6, 272e6  # elements of a decoder layer's matrices, and of all that stage 4 trains
PHASES = ("forward", "backward", "step")
COLLECTIVES = (
    "all_gather", "all_gather_into_tensor", "all_gather_coalesced", "all_reduce", "broadcast", "reduce",
    "reduce_scatter", "reduce_scatter_tensor",
)  # fmt: skip


def build_model(checkpointing: Any = True, layers: int = LAYERS, blocks: int = BLOCKS, late: int = LATE_BLOCKS) -> Any:
    """SpeakerLM in stage 4 with random weights."""
    import torch

    from pipeline.model.configuration_speakerlm import SpeakerLMConfig
    from pipeline.model.encoders.sensevoice import sensevoice_conf
    from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
    from pipeline.stages import STAGES

    llm = {
        "model_type": "qwen2", "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "tie_word_embeddings": False,
    }  # fmt: skip
    torch.manual_seed(0)
    config = SpeakerLMConfig(
        encoder_conf=sensevoice_conf(ENCODER_WIDTH, blocks, late, 4, 2 * ENCODER_WIDTH),
        feature_shift=[-8.0] * 560, feature_scale=[0.2] * 560,
        projector={"layers": 2, "heads": 4, "ffn": 32, "dropout": 0.1, "stride": 2},
        llm=llm, lora=LORA, activation_checkpointing=checkpointing, speaker_dim=SPEAKER_DIM,
    )  # fmt: skip
    model = SpeakerLMForConditionalGeneration(config)
    model.trainable(STAGES[4].trains)
    return model.train()


def engine_config(name: str, model: Any, world: int) -> dict[str, Any]:
    """``ds_configs/NAME.json`` in fp32, its thresholds and buckets scaled to this model's sizes."""
    config: dict[str, Any] = json.loads((CHECKOUT / "ds_configs" / f"{name}.json").read_text(encoding="utf-8"))
    del config["bf16"]
    zero = config["zero_optimization"]
    layer = sum(p.numel() for p in model.llm.get_decoder().layers[0].parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    for field in ("stage3_prefetch_bucket_size", "stage3_max_live_parameters", "stage3_max_reuse_distance"):
        if field in zero:
            zero[field] = int(zero[field] * layer / LAYER_7B)
    for field in ("reduce_bucket_size", "allgather_bucket_size"):
        if field in zero:
            zero[field] = 64 * int(zero[field] * trained / TRAINED_7B / 64)
    if "stage3_param_persistence_threshold" in zero:
        zero["stage3_param_persistence_threshold"] = WHOLE
    adam = {"lr": 1e-6, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.0, "torch_adam": True}
    return config | {
        "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "train_batch_size": world,
        "gradient_clipping": 1.0, "optimizer": {"type": "AdamW", "params": adam},
    }  # fmt: skip


@dataclass
class HostStep:
    """One step in three phases."""

    forward: Callable[[], Any]
    backward: Callable[[Any], None]
    step: Callable[[], None]
    engine: Any = None

    @classmethod
    def of(cls, name: str, model: Any, world: int) -> HostStep:
        """``bare``, or through the engine of ``ds_configs/NAME.json``."""
        import torch

        samples = full(POSITIONS, clips(10, scale=0.01))
        batch = micro_batch(samples, VOCABULARY, SPEAKER_DIM, "cpu", pad=False)
        if name == "bare":
            adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, foreach=True)

            def update() -> None:
                torch.nn.utils.clip_grad_norm_([p for g in adam.param_groups for p in g["params"]], 1.0)
                adam.step()
                adam.zero_grad(set_to_none=True)

            return cls(lambda: model(**batch).loss, lambda loss: loss.backward(), update)
        from pipeline.train.engine import initialize

        engine = initialize(model, engine_config(name, model, world))
        return cls(
            lambda: engine(**batch).loss,
            lambda loss: engine.backward(loss, scale_wrt_gas=False),
            engine.step,
            engine,
        )

    def run(self, after: Callable[[str], None] = lambda _: None) -> float:
        """Make a step; ``after`` is called with the name of each phase. Return the loss."""
        loss = self.forward()
        after("forward")
        self.backward(loss)
        after("backward")
        self.step()
        after("step")
        return float(loss.detach())

    def seconds(self, steps: int, warm: int = 3) -> dict[str, float]:
        """CPU seconds of the main thread by phase: medians. ZeRO-3 records its trace in the first two steps."""
        rows: dict[str, list[float]] = {phase: [] for phase in PHASES}
        for i in range(warm + steps):
            before = [time.thread_time()]

            def lap(phase: str, before: list[float] = before, counted: bool = i >= warm) -> None:
                now = time.thread_time()
                if counted:
                    rows[phase].append(now - before[0])
                before[0] = now

            self.run(lap)
        return {phase: statistics.median(values) for phase, values in rows.items()}

    def collectives(self) -> dict[str, int]:
        """Collectives of one step by phase."""
        import deepspeed.comm.comm as communication

        backend, counts, found = communication.cdb, Counter[str](), {}
        own = {name: getattr(backend, name) for name in COLLECTIVES if hasattr(backend, name)}

        def counting(name: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                counts[name] += 1
                return own[name](*args, **kwargs)

            return call

        for name in own:
            setattr(backend, name, counting(name))
        try:
            done = 0

            def lap(phase: str) -> None:
                nonlocal done
                found[phase], done = counts.total() - done, counts.total()

            self.run(lap)
        finally:
            for name in own:
                delattr(backend, name)
        return found

    def fetches(self) -> int:
        """Modules whose parameters ZeRO-3 looks up in a forward and backward pass."""
        coordinator = self.engine.optimizer.parameter_offload.get_param_coordinator()
        own, count = coordinator.fetch_sub_module, 0

        def fetch(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            return own(*args, **kwargs)

        coordinator.fetch_sub_module = fetch
        try:
            self.run()
        finally:
            del coordinator.fetch_sub_module
        return count


def hooks(model: Any) -> int:
    """Hooks of all modules around their forward."""
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
