"""TextGrid files in the binary form: what Praat wrote, random tiers, damage."""

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import ManifestError
from shards.manifests.textgrid import read_textgrid

# Written by Praat 6 ("Save as binary file"): quotes, Chinese, a character outside the BMP, a name that is not ASCII, a
# point tier.
BY_PRAAT = bytes.fromhex(
    "6f6f42696e61727946696c650854657874477269640000000000000000400400000000000001000000030c496e74657276616c54"
    "6965720003616e6e000000000000000040040000000000000000000200000000000000003ff00000000000000013736865207361"
    "6964202268692220746f206d653ff00000000000004004000000000000ffff00064f60597d002001510020d83dde000c496e7465"
    "7276616c54696572ffff00030411006f0062000000000000000040040000000000000000000200000000000000003fe000000000"
    "000000003fe000000000000040040000000000000005706c61696e08546578745469657200037074730000000000000000400400"
    "0000000000000000013fe666666666666600027074"
)


def marks(path: Path) -> dict[str, list[tuple[float, float, str]]]:
    return {t.name: [(i.start, i.end, i.mark) for i in t.intervals] for t in read_textgrid(path)}


def test_a_file_that_praat_wrote(tmp_path: Path) -> None:
    (tmp_path / "a.TextGrid").write_bytes(BY_PRAAT)
    assert marks(tmp_path / "a.TextGrid") == {
        "ann": [(0.0, 1.0, 'she said "hi" to me'), (1.0, 2.5, "你好 ő 😀")],
        "Бob": [(0.0, 0.5, ""), (0.5, 2.5, "plain")],
    }


def test_damage_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.TextGrid"
    for end in range(len(b"ooBinaryFile"), len(BY_PRAAT)):
        path.write_bytes(BY_PRAAT[:end])
        with pytest.raises(ManifestError, match=r"a\.TextGrid: invalid TextGrid: the binary file is truncated"):
            read_textgrid(path)
    for bad in (
        BY_PRAAT + b"more",
        BY_PRAAT.replace(b"TextTier", b"XextTier"),
        BY_PRAAT.replace(b"\x08TextG", b"\x08PextG"),
    ):
        path.write_bytes(bad)
        with pytest.raises(ManifestError, match="invalid TextGrid"):
            read_textgrid(path)


def string(text: str) -> bytes:
    """As Praat writes it: one byte a character if all are ASCII."""
    if text.isascii():
        return struct.pack(">H", len(text)) + text.encode()
    return struct.pack(">HH", 0xFFFF, len(text)) + text.encode("utf-16-be")


def binary_grid(tiers: dict[str, list[tuple[float, float, str]]]) -> bytes:
    data = b"ooBinaryFile\x08TextGrid" + struct.pack(">ddBi", 0.0, 60.0, 1, len(tiers))
    for name, intervals in tiers.items():
        data += b"\x0cIntervalTier" + string(name) + struct.pack(">ddi", 0.0, 60.0, len(intervals))
        data += b"".join(struct.pack(">dd", start, end) + string(mark) for start, end, mark in intervals)
    return data


text = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\u2028\u2029\x85"), max_size=8)
times = st.floats(-1e6, 1e6)
interval = st.tuples(times, times, text.map(lambda s: " ".join(s.split())))


@settings(max_examples=100, deadline=None)
@given(tiers=st.dictionaries(text.map(str.strip), st.lists(interval, max_size=5), max_size=4))
def test_round_trip_of_random_tiers(tmp_path_factory: pytest.TempPathFactory, tiers) -> None:
    path = tmp_path_factory.mktemp("g") / "a.TextGrid"
    path.write_bytes(binary_grid(tiers))
    assert marks(path) == tiers
