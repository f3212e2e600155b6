import io

import numpy as np
import pytest
import soundfile

from shards.errors import AudioError
from shards.sound.audio import decode, encode_flac, load, load_flac
from shards.sound.flac import with_samples
from tests.support.manifests import tone


def test_flac_round_trip_is_exact_to_16_bits():
    wave = tone(0.5).astype(np.float32)
    back = decode(encode_flac(wave))
    assert back.dtype == np.float32
    assert np.abs(back - wave).max() <= 0.5 / 32768 + 1e-7
    np.testing.assert_array_equal(decode(encode_flac(back)), back)


def test_encoding_is_deterministic_and_clips():
    assert encode_flac(tone(0.2)) == encode_flac(tone(0.2))
    np.testing.assert_allclose(decode(encode_flac(np.array([2.0, -2.0, 0.0]))), [32767 / 32768, -1.0, 0.0])


@pytest.mark.parametrize("wave", [np.empty(0), np.zeros((10, 2)), np.array([0.0, np.nan])])
def test_encode_rejects_invalid_waves(wave):
    with pytest.raises(AudioError):
        encode_flac(wave)


def flac_bytes(rate=16_000, channels=1):
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(0.5, rate, channels), rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def test_decode_rejects_other_formats_and_damage():
    data = flac_bytes()
    for bad in (b"", b"RIFF", data[:100], data[: len(data) // 2], flac_bytes(rate=8_000), flac_bytes(channels=2)):
        with pytest.raises(AudioError):
            decode(bad)


def pitch(wave):
    return np.abs(np.fft.rfft(wave)).argmax() * 16_000 / len(wave)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("form", ["wav", "flac", "ogg"])
def test_load_keeps_length_and_pitch_at_any_rate_and_format(tmp_path, rate, form):
    path = tmp_path / f"synthetic.{form}"
    soundfile.write(path, tone(1.0, rate, pitch=440), rate)
    wave = load(path)
    assert wave.dtype == np.float32
    assert abs(len(wave) - 16_000) <= 16
    assert abs(pitch(wave) - 440) < 2


def test_channel_is_selected_or_all_are_averaged(tmp_path):
    path = tmp_path / "synthetic.wav"
    channels = np.stack([np.full(1600, 0.5), np.full(1600, -0.25)], axis=1)
    soundfile.write(path, channels, 16_000)
    assert load(path, channel=1)[0] == pytest.approx(-0.25)
    assert load(path)[0] == pytest.approx(0.125, abs=1e-4)
    with pytest.raises(AudioError, match="channel 2"):
        load(path, channel=2)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_span_equals_that_part_of_the_whole_file(tmp_path, rate):
    path = tmp_path / "synthetic.wav"
    soundfile.write(path, tone(3.0, rate), rate, subtype="FLOAT")
    part, whole = load(path, start=1.0, duration=0.5), load(path)
    assert len(part) == 8_000
    np.testing.assert_allclose(part[500:-500], whole[16_500:23_500], atol=2e-4)


def test_file_that_ends_early_is_an_error(tmp_path):
    path = tmp_path / "synthetic.wav"
    soundfile.write(path, tone(1.0), 16_000)
    assert len(load(path, start=0.5, duration=0.52)) == 8_000  # within the slack
    with pytest.raises(AudioError, match=r"ends at 1\.000 s.*1\.500 s"):
        load(path, start=0.5, duration=1.0)
    with pytest.raises(AudioError, match=r"ends at 1\.000 s"):
        load(path, start=2.0)


def test_bad_files_are_audio_errors_with_the_path(tmp_path):
    empty, text, silent, nan, many, slow = (tmp_path / f"{n}.wav" for n in "abcdef")
    empty.write_bytes(b"")
    text.write_text("not audio")
    soundfile.write(silent, np.empty(0), 16_000)
    soundfile.write(nan, np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    soundfile.write(many, np.zeros((100, 200)), 16_000)
    soundfile.write(slow, np.zeros(100), 10)
    for path in (empty, text, silent, nan, many, slow, tmp_path / "missing.wav", tmp_path):
        with pytest.raises(AudioError, match=str(path)):
            load(path)


def test_flac_in_the_target_format_is_copied(tmp_path):
    path = tmp_path / "synthetic.flac"
    soundfile.write(path, tone(1.0), 16_000, subtype="PCM_16", compression_level=0.0)
    data, num_samples = load_flac(path)
    assert (data, num_samples) == (path.read_bytes(), 16_000)
    assert data != encode_flac(load(path))  # so it was not encoded again by chance
    assert load_flac(path, channel=0)[0] == data


@pytest.mark.parametrize("samples", [16_000, 48_047, 15_999])
def test_flac_of_the_length_in_the_manifest_is_copied(tmp_path, samples):
    """Manifests give the duration of a file, some of them rounded."""
    path = tmp_path / "synthetic.flac"
    soundfile.write(path, tone(4.0)[:samples], 16_000, subtype="PCM_16", compression_level=0.0)
    for duration in (samples / 16_000, round(samples / 16_000, 4), samples / 16_000 + 3e-5):
        assert load_flac(path, duration=duration) == (path.read_bytes(), samples)
    for start, duration in ((0.0, (samples - 1) / 16_000), (0.1, samples / 16_000 - 0.1)):
        data, num_samples = load_flac(path, start=start, duration=duration)
        assert num_samples == round(duration * 16_000) == len(decode(data))
    longer = load_flac(path, duration=samples / 16_000 + 0.04)[1]
    assert longer == samples  # within the slack, and encoded again


def test_flac_without_length_is_copied_if_it_has_the_duration_of_the_manifest(tmp_path):
    path = tmp_path / "synthetic.flac"
    soundfile.write(path, tone(1.0), 16_000, subtype="PCM_16", compression_level=0.0)
    whole = path.read_bytes()
    path.write_bytes(with_samples(whole, 0))
    assert load_flac(path, duration=1.0) == (whole, 16_000)


def test_flac_in_another_format_or_in_part_is_encoded(tmp_path):
    path = tmp_path / "synthetic.flac"
    soundfile.write(path, tone(1.0), 16_000, subtype="PCM_16")
    assert load_flac(path, duration=0.5)[1] == 8_000
    for name, rate, channels, subtype in (
        ("r", 8_000, 1, "PCM_16"),
        ("c", 16_000, 2, "PCM_16"),
        ("b", 16_000, 1, "PCM_24"),
    ):
        other = tmp_path / f"{name}.flac"
        soundfile.write(other, tone(1.0, rate, channels), rate, subtype=subtype)
        data, num_samples = load_flac(other)
        assert len(decode(data)) == num_samples == 16_000


def test_truncated_flac_is_not_copied(tmp_path):
    path = tmp_path / "synthetic.flac"
    soundfile.write(path, tone(2.0), 16_000, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(AudioError, match=str(path)):
        load_flac(path)


def test_g722_is_read_by_pyav(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "synthetic.g722"
    with av.open(str(path), "w", format="g722") as out:
        stream = out.add_stream("g722", rate=16_000)
        stream.layout = "mono"
        pcm = (tone(1.0, pitch=440) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    wave = load(path)
    assert abs(len(wave) - 16_000) < 400
    assert abs(pitch(wave) - 440) < 3
