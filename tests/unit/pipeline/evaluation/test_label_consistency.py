"""Whether a person keeps the label from chunk to chunk."""

from __future__ import annotations

from pipeline.evaluation.label_consistency import LabelledTurn, held_labels
from pipeline.evaluation.records import SegLstRow

REFERENCE = [
    SegLstRow("s", "a", "", 0.0, 2.0),
    SegLstRow("s", "b", "", 2.0, 4.0),
    SegLstRow("s", "a", "", 5.0, 6.0),
    SegLstRow("s", "b", "", 6.0, 9.0),
    SegLstRow("s", "b", "", 11.0, 12.0),
]


def turn(label: str, start: float, end: float) -> LabelledTurn:
    return LabelledTurn(label, start, end)


def chunks(*turns: list[LabelledTurn]) -> list[tuple[float, float, list[LabelledTurn]]]:
    return [(5.0 * i, 5.0 * i + 5.0, found) for i, found in enumerate(turns)]


def test_labels_that_hold_and_one_that_does_not() -> None:
    first = [turn("1", 0, 2), turn("2", 2, 4)]
    same = chunks(first, [turn("1", 5, 6), turn("2", 6, 9)], [turn("2", 11, 12)])
    assert held_labels(REFERENCE, same) == (3, 3)
    numbered_again = chunks(first, [turn("1", 5, 6), turn("2", 6, 9)], [turn("1", 11, 12)])
    assert held_labels(REFERENCE, numbered_again) == (2, 3)
    exchanged = chunks(first, [turn("2", 5, 6), turn("1", 6, 9)], [turn("1", 11, 12)])
    assert held_labels(REFERENCE, exchanged) == (1, 3)


def test_one_label_for_everybody_names_one_person_only() -> None:
    all_one = chunks([turn("1", 0, 4)], [turn("1", 5, 9)], [turn("1", 11, 12)])
    held, pairs = held_labels(REFERENCE, all_one)
    assert pairs == 3
    assert held <= 2


def test_a_person_without_a_label_has_not_kept_it() -> None:
    assert held_labels(REFERENCE, chunks([turn("1", 0, 2)], [turn("2", 6, 9)], [])) == (0, 3)
    assert held_labels(REFERENCE, chunks([], [], [])) == (0, 3)
    assert held_labels([], chunks([turn("1", 0, 2)])) == (0, 0)


def test_a_turn_that_crosses_a_cut_counts_in_both_chunks() -> None:
    reference = [SegLstRow("s", "a", "", 4.0, 6.0)]
    assert held_labels(reference, chunks([turn("1", 4, 5)], [turn("1", 5, 6)])) == (1, 1)
