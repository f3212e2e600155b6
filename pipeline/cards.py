"""Figures of accelerator cards from their makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from shards.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of card."""

    name: str  # as --card takes it
    pattern: str  # part of the name that the driver gives it
    bf16_tflops: float  # dense matrix products in bf16 with fp32 accumulation; no sparsity
    memory_gib: float  # what a process can use of it, about
    link_gb_s: float  # to the other cards of a node, sum of both directions, as in data sheets
    memory_gb_s: float  # bandwidth of its memory
    float8: bool = True  # has float8 matrix products, at twice the speed of bf16


CARDS = (  # the first whose pattern is in the driver's name counts: longer names before their prefixes
    Card("H200", "H200", 989.4, 139.8, 900, 4800),
    Card("H100-PCIe", "H100 PCIe", 756.0, 79.1, 128, 2000),
    Card("H100-80", "H100", 989.4, 79.1, 900, 3350),
    Card("H800-80", "H800", 989.4, 79.1, 400, 3350),
    Card("H20-96", "H20", 148.0, 95.0, 900, 4000),
    Card("B200", "B200", 2250.0, 178.0, 1800, 8000),
    Card("A800-80", "A800", 312.0, 79.1, 400, 2039, float8=False),
    Card("A100-40", "A100-SXM4-40GB", 312.0, 39.4, 600, 1555, float8=False),
    Card("A100-80", "A100", 312.0, 79.1, 600, 2039, float8=False),
    Card("L40S", "L40S", 362.0, 44.4, 64, 864),
    Card("RTX4090", "RTX 4090", 165.2, 23.5, 64, 1008),
)


def card(name: str) -> Card:
    """Return the card of this name.

    Raises:
        ConfigError: the card is unknown; the error lists the known ones.
    """
    for c in CARDS:
        if c.name.lower() == name.lower():
            return c
    raise ConfigError(f"card {name!r} is unknown; known are {', '.join(c.name for c in CARDS)}")


def card_of_driver(driver_name: str) -> Card | None:
    """Return the card of a driver's name, such as ``NVIDIA H100 80GB HBM3``; None: not listed."""
    return next((c for c in CARDS if c.pattern in driver_name), None)


def this_card() -> Card | None:
    """Return the card of this process; None on a CPU, or if the card is not listed."""
    import torch

    return card_of_driver(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
