"""ERes2NetV2 of 3D-Speaker in its larger size: Mandarin, 192 dimensions."""

from __future__ import annotations

from pathlib import Path

from shards.voices.network_extractor import Architecture, NetworkExtractor, load_network
from shards.weights.hubs import weight_file

ARCHITECTURE = Architecture(
    "funasr.models.eres2net.eres2netv2",
    "ERes2NetV2",
    {"embedding_size": 192, "baseWidth": 24, "scale": 4, "expansion": 4},
    192,
)
SOURCE = "modelscope:iic/speech_eres2netv2w24s4ep4_sv_zh-cn_16k-common"


def load(source: str, device: str, cache: Path) -> NetworkExtractor:
    """Load the network; an empty `source` is the published model on ModelScope."""
    return load_network("eres2netv2w24s4ep4", ARCHITECTURE, weight_file(source or SOURCE), device, cache)
