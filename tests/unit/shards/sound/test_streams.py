"""Lengths and spans of files of any form: what a library estimates, cuts off or cannot seek to."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.transcribe.audio_stream import blocks, seconds_of
from shards.errors import AudioError
from shards.manifests.audio_files import audio_info
from shards.sound import streams
from shards.sound.audio import load, load_flac
from shards.sound.streams import open_stream

SECONDS = 6.05


def speechlike(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """Tones and noise in turn, so that a variable bit rate varies."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    loud = (np.sin(2 * np.pi * 0.9 * time) > 0) * 0.25 * rng.standard_normal(len(time))
    return np.clip(0.2 * np.sin(2 * np.pi * 300 * time) + loud, -1, 1)


def mp3(mode: str, seconds: float = SECONDS, header: bool = False) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(
        buffer, speechlike(seconds), 16_000, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode,
        compression_level=0.6,
    )  # fmt: skip
    data = buffer.getvalue()
    if header:
        return data
    tag = max(data.find(b"Xing", 0, 300), data.find(b"Info", 0, 300))
    assert tag > 0
    return data[data.index(data[:2], tag) :]  # from the second frame on, as an encoder writes into a pipe


ID3V1 = b"TAG" + b"a title".ljust(125, b"\0")
ARTWORK = b"ID3\x03\x00\x00" + bytes([0, 5, 0, 0]) + b"APIC" + bytes(5 * 128 * 128 - 4)  # 80 KiB


def heard(path: Path) -> float:
    return sum(len(block) for block in blocks(path)) / 16_000


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize(("before", "after"), [(b"", b""), (b"", ID3V1), (ARTWORK, b""), (ARTWORK, ID3V1)])
def test_mp3_without_a_length_is_read_to_its_end(tmp_path: Path, mode: str, before: bytes, after: bytes) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(before + mp3(mode) + after)
    # The first frame, a decoder's delay and padding stay, as nothing tells how long they are.
    assert audio_info(path).seconds == pytest.approx(SECONDS, abs=0.2)
    wave = load(path)
    assert len(wave) / 16_000 == pytest.approx(audio_info(path).seconds, abs=1e-4)
    assert len(wave) / 16_000 >= SECONDS
    assert heard(path) == pytest.approx(len(wave) / 16_000, abs=1e-4)
    _, samples = load_flac(path, duration=audio_info(path).seconds)
    assert samples == len(wave)


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_mp3_with_a_length_is_exact(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(ARTWORK + mp3(mode, header=True) + ID3V1)
    assert audio_info(path).seconds == SECONDS == len(load(path)) / 16_000 == heard(path) == seconds_of(path)


def test_span_and_blocks_of_mp3_equal_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of a loud tone uses bits of frames before it; a seek loses them."""
    path = tmp_path / "a.mp3"
    time = np.arange(16_000 * 12) / 16_000
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * 300 * time), 16_000)
    whole = load(path)
    for start in (0.5, 1.0, 5.0, 11.0):
        at = round(start * 16_000)
        np.testing.assert_allclose(load(path, start=start, duration=0.5), whole[at : at + 8_000], atol=1e-4)
    monkeypatch.setattr(streams, "BLOCK_S", 1.0)
    np.testing.assert_allclose(np.concatenate(list(blocks(path))), whole, atol=1e-4)


FORMS = {
    "wav": ("WAV", "PCM_16"), "rf64": ("RF64", "PCM_16"), "w64": ("W64", "FLOAT"), "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"), "aiff": ("AIFF", "PCM_24"), "sph": ("NIST", "ULAW"), "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III"),
}  # fmt: skip


@pytest.mark.parametrize("rate", [16_000, 8_000])
@pytest.mark.parametrize("name", FORMS)
def test_joined_files_are_read_to_their_end(tmp_path: Path, name: str, rate: int) -> None:
    """``cat a b > ab``: libraries read the first, or the second's header as sound."""
    form, subtype = FORMS[name]
    one, two, both = (tmp_path / f"{n}.{name}" for n in ("1", "2", "12"))
    soundfile.write(one, speechlike(2.0, rate), rate, format=form, subtype=subtype)
    soundfile.write(two, speechlike(1.5, rate, seed=1), rate, format=form, subtype=subtype)
    both.write_bytes(one.read_bytes() + two.read_bytes())
    wave = load(both)
    longer = 0.3 if name == "mp3" else 0.0  # delay and padding where they meet
    assert 3.5 <= len(wave) / 16_000 <= 3.5 + longer
    assert audio_info(both).seconds == pytest.approx(len(wave) / 16_000)
    assert heard(both) == pytest.approx(len(wave) / 16_000)
    assert load_flac(both, duration=audio_info(both).seconds)[1] == len(wave)
    if rate == 16_000 and name != "mp3":
        np.testing.assert_array_equal(wave, np.concatenate([load(one), load(two)]))
        np.testing.assert_array_equal(load(both, start=1.5, duration=1.0), wave[24_000:40_000])


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    with pytest.raises(AudioError, match=r"a\.wav: not a readable audio file \(it is empty, 0 bytes\)"):
        load(tmp_path / "a.wav")


def test_joined_files_of_different_forms_are_an_error(tmp_path: Path) -> None:
    for number, rate in enumerate((16_000, 8_000)):
        soundfile.write(tmp_path / f"{number}.wav", speechlike(1.0, rate), rate)
    (tmp_path / "both.wav").write_bytes((tmp_path / "0.wav").read_bytes() + (tmp_path / "1.wav").read_bytes())
    with pytest.raises(AudioError, match=r"both\.wav: joined of files of different forms \(16000 Hz"):
        load(tmp_path / "both.wav")


@pytest.mark.parametrize("form", sorted({*soundfile.available_formats()} - {"RAW"}))
def test_any_codec_is_read_whole_in_parts_and_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """All that libsndfile writes, also codecs that cannot seek, such as GSM 6.10."""
    monkeypatch.setattr(streams, "BLOCK_S", 0.7)
    for subtype in soundfile.available_subtypes(form):
        path = tmp_path / f"{subtype}.{form.lower()}"
        try:
            soundfile.write(path, speechlike(2.0, 8_000), 8_000, format=form, subtype=subtype)
            with soundfile.SoundFile(path) as file:
                if len(file.read(file.frames)) != file.frames:
                    continue
        except (soundfile.SoundFileError, ValueError):
            continue  # libsndfile does not write it, or not read it back
        with open_stream(path) as stream:
            whole = stream.read(0, None)
        with open_stream(path) as stream:
            np.testing.assert_allclose(np.concatenate(list(stream.blocks())), whole, atol=1e-6, err_msg=subtype)
        with open_stream(path) as stream:
            np.testing.assert_allclose(stream.read(3_000, 5_000), whole[3_000:8_000], atol=1e-6, err_msg=subtype)
        assert audio_info(path).seconds == pytest.approx(len(whole) / stream.rate)
        assert load_flac(path, duration=audio_info(path).seconds)[1] == len(load(path))


@pytest.mark.parametrize("subtype", ["DWVW_16", "DWVW_24"])
def test_codec_that_says_it_can_seek_is_read(tmp_path: Path, subtype: str) -> None:
    """libsndfile fails in every seek, which soundfile makes after each read."""
    path, wave = tmp_path / "a.aiff", speechlike(2.0)
    soundfile.write(path, wave, 16_000, format="AIFF", subtype=subtype)
    assert audio_info(path).seconds == 2.0
    np.testing.assert_allclose(load(path), wave, atol=1e-3)
    np.testing.assert_allclose(load(path, start=0.5, duration=1.0), wave[8_000:24_000], atol=1e-3)
    np.testing.assert_allclose(np.concatenate(list(blocks(path))), wave, atol=1e-3)
    assert load_flac(path)[1] == 32_000


def wav(seconds: float = 2.0) -> bytearray:
    buffer = io.BytesIO()
    soundfile.write(buffer, speechlike(seconds), 16_000, format="WAV", subtype="PCM_16")
    return bytearray(buffer.getvalue())


@pytest.mark.parametrize(("riff", "data"), [(0, 0), (36, 0), (2**32 - 1, 2**32 - 1), (2**31 - 1, 2**31 - 37)])
def test_wav_from_a_pipe_is_read(tmp_path: Path, riff: int, data: int) -> None:
    whole, path = wav(), tmp_path / "a.wav"
    path.write_bytes(whole)
    wanted = load(path)
    whole[4:8], whole[40:44] = struct.pack("<I", riff), struct.pack("<I", data)
    path.write_bytes(whole)
    assert audio_info(path).seconds == 2.0
    np.testing.assert_array_equal(load(path), wanted)
    np.testing.assert_array_equal(np.concatenate(list(blocks(path))), wanted)
    np.testing.assert_array_equal(load(path, start=0.5, duration=1.0), wanted[8_000:24_000])


def test_empty_wav_stays_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(bytes(wav(0.0)[:44]) + b"LIST\x04\0\0\0INFO")
    with pytest.raises(AudioError, match="no audio samples"):
        audio_info(path)


@pytest.mark.parametrize(
    "tail", [b"", b"LIST\x04\0\0\0INFO", b"id3 \x03\0\0\0abc\0", bytes(9_000), ID3V1 * 20, b"\1" * 99]
)
def test_what_follows_the_audio_of_a_wav_is_not_audio(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(bytes(wav()) + tail)
    assert audio_info(path).seconds == 2.0 == len(load(path)) / 16_000


def test_audio_behind_the_announced_end_is_an_error(tmp_path: Path) -> None:
    """A recorder that died, or a length over 4 GiB that has wrapped; FLAC whose header was not written again."""
    whole, path = wav(), tmp_path / "a.wav"
    whole[40:44] = struct.pack("<I", 16_000)
    path.write_bytes(whole)
    for reads in (audio_info, load, load_flac, heard):
        with pytest.raises(AudioError, match=r"a\.wav: 48000 bytes \(1\.5 s\) follow the audio"):
            reads(path)
    path = tmp_path / "b.flac"
    for rate in (16_000, 48_000):
        soundfile.write(path, speechlike(2.0, rate), rate)
        data = bytearray(path.read_bytes())
        data[21:26] = bytes([data[21] & 0xF0]) + rate.to_bytes(4, "big")
        path.write_bytes(data)
        for reads in (audio_info, load, load_flac, heard):
            with pytest.raises(
                AudioError, match=r"b\.flac: its header announces 1\.000 s, its frames continue to 2\.000"
            ):
                reads(path)
