"""The options of the model on this card: loss, seconds and GiB of stage 4, everything checkpointed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.gpu_cases import stage_step

NEAR = 0.01  # relative difference of the first loss that an option may make


def options(at: Any) -> Iterator[dict[str, Any]]:
    """Each option alone, beside the model without any; Liger's last, since it stays in transformers' module."""
    from shards.errors import ModelError

    plain: float | None = None
    for name, use in _uses(at).items():
        b = at.bench()
        row: dict[str, Any] = {"option": name}
        try:
            use(b.model)
        except ModelError as e:
            yield row | {"not run": str(e)}
            continue
        batch, _ = b.batch(b.positions[1])
        b.model.eval()
        loss = float(b.model(**batch).loss.detach())
        plain = loss if plain is None else plain
        seconds, gib = b.timed(stage_step(b, 4, lambda b=b, batch=batch: b.model(**batch).loss))
        row |= {"seconds": seconds, "GiB": gib, "loss over plain": loss / plain - 1}
        yield row | {"right": abs(loss / plain - 1) < NEAR}
        b.model = None
        b.forget()


def _uses(at: Any) -> dict[str, Callable[[Any], Any]]:
    """Name of an option → what makes a model use it."""
    import torch

    from pipeline.model.build_encoder import compile_blocks
    from pipeline.model.float8 import use_float8
    from pipeline.model.liger import use_liger

    backend = "inductor" if at.device == "cuda" else "eager"
    return {
        "none": lambda _: None,
        "encoder.compile": lambda model: compile_blocks(model.encoder, backend),
        "llm.float8": lambda model: use_float8(model.llm, torch.device(at.device)),
        "llm.liger": lambda model: use_liger(model.llm),
    }
