"""Memory that a case of the GPU benchmarks needs, by preflight's own count: what cannot fit is not tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu_parts import shape
from pipeline.stages import STAGES, Checkpointing

ALL, NONE = Checkpointing(encoder=True, llm_every=1), Checkpointing()
SECOND, ENCODER = Checkpointing(encoder=True, llm_every=2), Checkpointing(encoder=True)
NAMES = {"all": ALL, "every 2nd layer": SECOND, "encoder alone": ENCODER, "none": NONE}


@dataclass(frozen=True)
class Case:
    """A step of the model under test."""

    stage: int
    positions: int
    checkpointing: str = "all"  # a key of NAMES
    dropout: float | None = None  # of LoRA; None: the recipe's

    @property
    def name(self) -> str:
        """As the table shows it."""
        dry = ", no LoRA dropout" if self.dropout == 0 else ""
        return f"stage {self.stage}, {self.positions}, checkpointing {self.checkpointing}{dry}"


@dataclass
class Needs:
    """Estimates on a model without content; one model, many cases."""

    small: bool
    _model: Any = field(default=None, repr=False)

    def gib(self, case: Case, samples: Sequence[Any]) -> float:
        """Return what a case takes with a bare AdamW whose states have the weights' type.

        Args:
            samples: Lengths of its micro-batch.
        """
        from benchmarks.gpu_cases import lora_dropout
        from pipeline.flops import Load
        from pipeline.preflight.memory import CONTEXT, FRAGMENTS, GIB, activations, plan_bytes

        model = self._empty()
        model.set_checkpointing(NAMES[case.checkpointing])
        model.trainable(STAGES[case.stage].trains)
        model.train()
        load = Load(
            samples=tuple(s.positions for s in samples),
            frames=tuple(s.frames for s in samples),
            audio_positions=sum(s.audio for s in samples),
            speakers=1,
            targets=sum(s.targets for s in samples),
        )
        with lora_dropout(model, case.dropout):
            added = activations(model, load, zero3=False)
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        total = weights + 3 * trained + added * (1 + FRAGMENTS) + CONTEXT + plan_bytes(load)  # gradients, two moments
        return float(total / GIB)

    def _empty(self) -> Any:
        """Return the model under test on the meta device, as bf16."""
        import torch

        from pipeline.model.configuration_speakerlm import SpeakerLMConfig
        from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration

        if self._model is None:
            with torch.device("meta"):
                self._model = SpeakerLMForConditionalGeneration(SpeakerLMConfig(**shape(self.small)))
            self._model.to(torch.bfloat16)
        return self._model


def card_gib() -> float | None:
    """Return the memory of this process's card; None on a CPU."""
    import torch

    return torch.cuda.mem_get_info()[1] / 2**30 if torch.cuda.is_available() else None
