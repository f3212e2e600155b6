from __future__ import annotations

from pipeline.train.trainer import dropout_seed


def test_dropout_seeds_differ_by_every_part_of_their_key() -> None:
    seeds = {dropout_seed(s, t, m) for s in (1, 2) for t in range(50) for m in range(8)}
    assert len(seeds) == 2 * 50 * 8
    assert all(0 <= s < 2**63 for s in seeds)
    assert dropout_seed(1, 23, 4) != dropout_seed(1, 2, 34)
