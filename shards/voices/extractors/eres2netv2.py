"""ERes2NetV2 of 3D-Speaker: Mandarin, 192 dimensions."""

from __future__ import annotations

from pathlib import Path

from shards.voices.network_extractor import Architecture, NetworkExtractor, load_network
from shards.weights.hubs import weight_file

ARCHITECTURE = Architecture(
    "funasr.models.eres2net.eres2netv2",
    "ERes2NetV2",
    {"embedding_size": 192, "baseWidth": 26, "scale": 2, "expansion": 2},
    192,
)
SOURCE = "modelscope:iic/speech_eres2netv2_sv_zh-cn_16k-common"


def load(source: str, device: str, cache: Path) -> NetworkExtractor:
    """Load the network; an empty `source` is the published model on ModelScope."""
    return load_network("eres2netv2", ARCHITECTURE, weight_file(source or SOURCE), device, cache)
