import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ManifestError, SpeakerError
from shards.sample import Sample, Segment, gender_of, parse_meta

SEGMENTS = (Segment("c:B", 0.0, 0.5, "一"), Segment("c:A", 0.4, 1.0, "two"), Segment("c:B", 0.6, 1.0, "三"))


def sample(**changes):
    fields = {"key": "k", "corpus": "c", "split": "train", "session": "s", "language": "zh", "start": 3.25}
    return Sample(**(fields | {"num_samples": 16_000, "segments": SEGMENTS, "audio": b"flac"} | changes))


def test_speakers_in_order_of_first_appearance_and_duration_in_seconds():
    assert sample().speakers == ("c:B", "c:A")
    assert sample(num_samples=8_000).duration == 0.5


@given(
    text=st.text(),
    speaker=st.text(min_size=1),
    rows=st.integers(0, 1),
)
def test_members_round_trip(text, speaker, rows):
    vectors = np.full((rows, 4), 0.5, dtype=np.float16) if rows else None
    before = sample(segments=(Segment(speaker, 0.0, 1.0, text),), embeddings=vectors)
    after = Sample.from_members("k", before.members())
    assert dataclasses.replace(after, embeddings=None) == dataclasses.replace(before, embeddings=None)
    assert (after.embeddings is None) == (vectors is None)
    if vectors is not None:
        np.testing.assert_array_equal(after.embeddings, vectors)


def test_bytes_are_a_function_of_the_content():
    a = sample(embeddings=np.ones((2, 3), dtype=np.float32)).members()
    b = sample(embeddings=np.asfortranarray(np.ones((2, 3), dtype=np.float16))).members()
    assert a == b
    assert list(a) == ["flac", "json", "npy"]


def test_genders_are_in_the_bytes_only_if_one_is_known():
    assert sample(genders={}).members() == sample().members()
    assert b"gender" not in sample().members()["json"]
    some = sample(genders={"c:A": "female"})
    some.validate()
    assert Sample.from_members("k", some.members()) == some
    assert Sample.from_members("k", sample().members()).genders == {}


@pytest.mark.parametrize("genders", [{"c:A": "f"}, {"c:C": "female"}])
def test_genders_of_others_or_of_another_form_are_rejected(genders):
    with pytest.raises(ManifestError, match="k: gender"):
        sample(genders=genders).validate()


@pytest.mark.parametrize(
    ("text", "gender"),
    [
        ("F", "female"),
        (" male ", "male"),
        ("女", "female"),
        ("男性", "male"),
        ("unknown", None),
        ("", None),
        (None, None),
    ],
)
def test_genders_as_corpora_write_them(text, gender):
    assert gender_of(text) == gender


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "a b", "a\\b", "a\n"])
def test_keys_that_tar_readers_split_are_rejected(key):
    with pytest.raises(ManifestError, match="key"):
        sample(key=key).validate()


@pytest.mark.parametrize(
    ("start", "end"), [(-0.1, 0.5), (0.5, 0.5), (0.6, 0.5), (0.0, 1.2), (float("nan"), 1.0), (0.0, float("inf"))]
)
def test_segments_outside_the_audio_are_rejected(start, end):
    with pytest.raises(ManifestError, match="is outside 0"):
        sample(segments=(Segment("c:A", start, end, "x"),)).validate()


def test_segments_out_of_order_are_rejected():
    with pytest.raises(ManifestError, match="order"):
        sample(segments=SEGMENTS[::-1]).validate()


def test_empty_audio_is_rejected():
    with pytest.raises(ManifestError, match="0 samples"):
        sample(num_samples=0, segments=()).validate()


def test_embeddings_of_wrong_count_or_not_finite_are_rejected():
    with pytest.raises(SpeakerError, match="2 speakers"):
        sample(embeddings=np.ones((3, 4), dtype=np.float16)).validate()
    with pytest.raises(SpeakerError, match="finite"):
        sample(embeddings=np.full((2, 4), np.nan, dtype=np.float16)).validate()


def test_unknown_format_version_is_rejected():
    with pytest.raises(ManifestError, match="version 99"):
        parse_meta("k", b'{"version": 99}')
