"""SpecAugment's masks on stacked features."""

from __future__ import annotations

import torch

from pipeline.model.specaugment import mask_features


def spans(*rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), -1, 2)


def test_frames_and_bands_become_zero_and_nothing_else():
    features = torch.ones(2, 10, 7 * 4)
    masked = mask_features(features, spans([[2, 5], [9, 10]], [[0, 0], [3, 4]]), spans([[1, 3]], [[0, 0]]))
    first = masked[0].view(10, 7, 4)
    assert first.any((1, 2)).tolist() == [True, True, False, False, False, True, True, True, True, False]
    assert first[0].tolist() == [[1.0, 0.0, 0.0, 1.0]] * 7
    assert masked[1].any(1).tolist() == [i != 3 for i in range(10)]
    assert masked[1, 0].all()
    assert features.all()  # the argument is left alone


def test_no_masks_are_no_work():
    features = torch.ones(1, 3, 14)
    assert mask_features(features, None, None) is features
    assert mask_features(features, spans([]), spans([])) is features
