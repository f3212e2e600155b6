import io

import numpy as np
import pytest
import soundfile
from fastcrc import crc8, crc16

from shards.errors import AudioError
from shards.manifests.audio_files import AudioInfo, audio_info
from shards.manifests.clips import ClipRule, cut
from shards.sound.audio import decode, load, load_flac
from shards.sound.flac import stream_info, whole_samples
from tests.support.manifests import recording, tone


def flac(seconds=2.0, rate=16_000, level=None):
    rng = np.random.default_rng(1)
    wave = tone(seconds, rate) + 0.01 * rng.standard_normal(round(seconds * rate))
    buffer = io.BytesIO()
    extra = {} if level is None else {"compression_level": level}
    soundfile.write(buffer, wave, rate, format="FLAC", subtype="PCM_16", **extra)
    return buffer.getvalue()


def whole(data):
    info = stream_info(data)
    return info is not None and whole_samples(data, info) > 0


def frames(data):
    """Return the offset of the first frame, and every later offset that looks like a frame."""
    found = [data.index(b"\xff\xf8", 42)]
    while (at := data.find(b"\xff\xf8", found[-1] + 1)) >= 0:
        found.append(at)
    return found


def test_stream_info_is_parsed():
    info = stream_info(flac(0.5))
    assert (info.rate, info.channels, info.bits, info.samples, info.block_size) == (16_000, 1, 16, 8_000, 4_096)
    for bad in (b"", b"fLaC", flac()[:41], b"RIFF" + flac()[4:], b"fLaC\x84" + flac()[5:]):
        assert stream_info(bad) is None


@pytest.mark.parametrize("seconds", [1 / 16_000, 0.1, 0.256, 0.5, 1.024, 40.0])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_encoded_stream_is_complete(seconds, level):
    assert whole(flac(seconds, level=level))


def test_silence_is_complete():
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(50_000), 16_000, format="FLAC")
    assert whole(buffer.getvalue())


def test_every_flipped_bit_of_the_audio_is_found():
    data = flac(1.0)
    rng = np.random.default_rng(2)
    for at in rng.integers(frames(data)[0], len(data), 300):
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        assert not whole(bytes(damaged)), at


@pytest.mark.parametrize("length", [1, 100, 1_000, 4_096])
@pytest.mark.parametrize("what", ["zeros", "noise", "lost", "twice"])
def test_damaged_span_is_found(length, what):
    data = flac(2.0)
    first = frames(data)[0]
    for at in range(first, len(data) - length, (len(data) - length - first) // 7):
        stretch = data[at : at + length]
        new = {"zeros": bytes(length), "noise": bytes(b ^ 0x5A for b in stretch), "lost": b"", "twice": 2 * stretch}[
            what
        ]
        damaged = data[:at] + new + data[at + length :]
        assert damaged == data or not whole(damaged)


def test_truncation_is_found_anywhere():
    data = flac(1.0)
    borders = [at for at in frames(data) if crc16.umts(data[frames(data)[0] : at]) == 0]
    assert len(borders) == 4  # 16,000 samples in blocks of 4,096
    for end in {*range(42, len(data), 37), *borders}:
        assert not whole(data[:end])
    assert not whole(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))  # a file of the right size, zeros


def test_tag_after_the_audio_is_left_to_the_decoder(tmp_path):
    data = flac(0.5) + b"TAG" + bytes(125)
    assert not whole(data)
    (tmp_path / "x.flac").write_bytes(data)
    try:
        decoded = len(decode(data))
    except AudioError:
        with pytest.raises(AudioError):
            load_flac(tmp_path / "x.flac")
    else:
        assert load_flac(tmp_path / "x.flac") == (data, decoded)


def test_variable_block_sizes():
    """Streams of variable block size number samples, not frames; soundfile writes none, so headers are made here."""

    def frame(number, size):
        coded = bytes([number]) if number < 0x80 else bytes([0xC0 | number >> 6, 0x80 | number & 0x3F])
        head = b"\xff\xf9" + bytes([0x75, 0x08]) + coded + (size - 1).to_bytes(2, "big")
        body = head + bytes([crc8.smbus(head)]) + b"\0\0\7"  # a constant subframe
        return body + crc16.umts(body).to_bytes(2, "big")

    info = bytearray(flac(0.1)[:42])
    info[4] = 0x80  # the only metadata block
    info[8:12] = (300).to_bytes(2, "big") + (700).to_bytes(2, "big")
    sizes, start, stream = (300, 700, 600), 0, bytes(info)
    for size in sizes:
        stream += frame(start, size)
        start += size
    assert len(decode(stream)) == 1_600
    assert whole(stream)
    assert not whole(stream[: -len(frame(1000, 600))])


def open_end(data):
    """As ``ffmpeg -f flac -`` writes it: the header has no length."""
    return data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]


def test_missing_length_is_filled_in(tmp_path):
    data = flac(0.5)
    (tmp_path / "x.flac").write_bytes(open_end(data))
    assert load_flac(tmp_path / "x.flac") == (data, 8_000)
    (tmp_path / "x.flac").write_bytes(open_end(data)[:-1])
    with pytest.raises(AudioError):
        load_flac(tmp_path / "x.flac")


def test_missing_length_in_another_format(tmp_path):
    """Its length comes from its frames, in any format: for reading a part, its duration, and its end."""
    wave = np.stack([tone(1.5, 48_000, pitch=300), tone(1.5, 48_000, pitch=700)], 1)
    path = tmp_path / "x.flac"
    soundfile.write(path, wave, 48_000, subtype="PCM_16")
    whole = load(path, channel=1)
    path.write_bytes(open_end(path.read_bytes()))
    assert np.array_equal(load(path, channel=1), whole)
    assert len(load(path, channel=0, start=1.0, duration=0.25)) == 4_000
    assert audio_info(path) == AudioInfo(1.5, 2, str(path))
    with pytest.raises(AudioError, match=r"ends at 1\.500 s"):
        load(path, start=2.0)
    (clip,) = cut(recording(path), ClipRule(), 0)
    assert clip.duration == 1.5


def test_missing_length_of_a_truncated_file_is_an_error(tmp_path):
    path = tmp_path / "x.flac"
    path.write_bytes(open_end(flac(0.5))[:-1])
    for reads in (audio_info, load, load_flac):
        with pytest.raises(AudioError, match=r"x.flac: truncated or damaged|do not decode"):
            reads(path)
