"""CAM++ trained on VoxCeleb: English, 512 dimensions."""

from __future__ import annotations

from pathlib import Path

from shards.voices.network_extractor import Architecture, NetworkExtractor, load_network
from shards.weights.hubs import weight_file

ARCHITECTURE = Architecture("funasr.models.campplus.model", "CAMPPlus", {"feat_dim": 80, "embedding_size": 512}, 512)
SOURCE = "modelscope:iic/speech_campplus_sv_en_voxceleb_16k"


def load(source: str, device: str, cache: Path) -> NetworkExtractor:
    """Load the network; an empty `source` is the published model on ModelScope."""
    return load_network("campplus-voxceleb", ARCHITECTURE, weight_file(source or SOURCE), device, cache)
