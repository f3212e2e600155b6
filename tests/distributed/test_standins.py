"""Stand-ins that two processes train together."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.support.distributed import run_distributed

STEPS = 6


def _weights(rank: int, ranks: int, out: str) -> None:
    """Train two layers; rank 0 alone uses the second. Both together use what one process uses as a batch of two."""
    from pipeline.standins.optimize import optimize

    torch.manual_seed(0)
    shared, own = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    inputs = torch.randn(2, STEPS, 3)

    def part(which: int, step: int) -> torch.Tensor:
        layers = (shared, own) if which == 0 else (shared,)
        return torch.stack([layer(inputs[which, step]).square().sum() for layer in layers]).sum()

    def losses(step: int) -> dict[str, torch.Tensor]:
        if ranks == 2:
            return {"all": part(rank, step)}
        return {"all": (part(0, step) + part(1, step)) / 2}

    optimize("layers", [*shared.parameters(), *own.parameters()], losses, STEPS, 1e-2, ranks)
    torch.save([shared.state_dict(), own.state_dict()], f"{out}-{rank}of{ranks}.pt")


def _rank(out: str) -> None:
    from pipeline.ranks.launch import init_distributed

    _weights(init_distributed(30).rank, 2, out)


def test_two_processes_train_as_one_with_both_batches(tmp_path: Path) -> None:
    printed = run_distributed(_rank, out=str(tmp_path / "w"))
    _weights(0, 1, str(tmp_path / "w"))
    expected = torch.load(tmp_path / "w-0of1.pt")
    for rank in range(2):
        for layer, alone in zip(torch.load(tmp_path / f"w-{rank}of2.pt"), expected, strict=True):
            for name, weight in layer.items():
                assert torch.allclose(weight, alone[name], atol=1e-6), (rank, name)
    assert ["layers step 6/6" in text for text in printed] == [True, False]
