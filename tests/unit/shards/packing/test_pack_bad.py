"""Invalid inputs and outputs: a quarantine entry with file and reason, or an error that says what to do."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.manifests.manifest import RECORDINGS
from shards.storage.local import LocalStorage
from tests.support.filesystems import mounted
from tests.support.manifests import make_manifest
from tests.support.noise import make_noise_manifest


@pytest.fixture
def manifest(tmp_path):
    make_manifest(tmp_path / "m", 12)
    return tmp_path / "m"


def pack(manifest, out, *options, code=0):
    command = ["pack", str(manifest), str(out), "--samples-per-shard", "4", "--no-speakers", *options]
    assert main(command) == code


def edit(manifest, number, **changes):
    lines = [json.loads(line) for line in (manifest / RECORDINGS).read_text().splitlines()]
    lines[number] |= changes
    (manifest / RECORDINGS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def header(manifest, field, value):
    """A wav whose header says something else."""
    data = bytearray((manifest / "audio-003.wav").read_bytes())
    data[field : field + 4] = value.to_bytes(4, "little")
    (manifest / "bad.wav").write_bytes(data)


def middle(manifest):
    data = bytearray((manifest / "audio-000.flac").read_bytes())
    half = len(data) // 2
    data[half : half + 200] = bytes(200)
    (manifest / "bad.flac").write_bytes(data)
    return "bad.flac"


def cut(manifest):
    data = (manifest / "audio-000.flac").read_bytes()
    (manifest / "bad.flac").write_bytes(data[: len(data) * 2 // 3])
    return "bad.flac"


def wav(manifest, change):
    change(manifest)
    return "bad.wav"


def text(manifest):
    (manifest / "bad.wav").write_text("this is not audio " * 1000)


def not_finite(manifest):
    soundfile.write(manifest / "bad.wav", np.array([0.1, np.nan, 0.3] * 4000), 16_000, subtype="FLOAT")


def channels(manifest):
    soundfile.write(manifest / "bad.wav", np.zeros((9000, 200)), 16_000)


BAD = {
    "corrupt in the middle": (middle, "FLAC|decode|samples"),
    "cut": (cut, "bad.flac"),
    "text": (lambda m: wav(m, text), "bad.wav"),
    "empty": (lambda m: wav(m, lambda m: (m / "bad.wav").write_bytes(b"")), "bad.wav"),
    "only a header": (lambda m: wav(m, lambda m: (m / "bad.wav").write_bytes(b"RIFF" + bytes(40))), "bad.wav"),
    "200 channels": (lambda m: wav(m, channels), "200 channels"),
    "a rate of 1 Hz": (lambda m: wav(m, lambda m: header(m, 24, 1)), "rate of 1 Hz"),
    "a rate of 3 MHz": (lambda m: wav(m, lambda m: header(m, 24, 3_000_000)), "rate of 3000000 Hz"),
    "not finite": (lambda m: wav(m, not_finite), "not finite"),
    "missing": (lambda m: "nowhere.wav", "no such file"),
    "a folder": (lambda m: ".", "no such file"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_audio_is_quarantined(manifest, tmp_path, capsys, what):
    make, reason = BAD[what]
    edit(manifest, 4, audio=make(manifest), channel=None)
    pack(manifest, tmp_path / "o", "--max-bad-share", "0.1")
    summary = json.loads(capsys.readouterr().out)
    assert (summary["samples"], summary["quarantined"]) == (11, 1)
    (bad,) = [json.loads(line) for line in (tmp_path / "o/quarantine.jsonl").read_text().splitlines()]
    assert bad["key"] == "synthetic-004"
    assert any(word in bad["reason"] for word in reason.split("|")), bad["reason"]
    assert main(["verify", str(tmp_path / "o")]) == 0
    pack(manifest, tmp_path / "strict", "--max-bad-share", "0", code=1)
    assert "synthetic-004" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [cut, middle])
def test_checksums_find_what_decoding_finds(manifest, tmp_path, damage):
    edit(manifest, 4, audio=damage(manifest))
    pack(manifest, tmp_path / "o", "--max-bad-share", "0.1")
    pack(manifest, tmp_path / "decoded", "--max-bad-share", "0.1", "--audio-check", "decode")
    assert open_dataset(tmp_path / "o").samples == 11
    tars = [{p.name: p.read_bytes() for p in (tmp_path / o).rglob("*.tar")} for o in ("o", "decoded")]
    assert tars[0] == tars[1]


@pytest.mark.parametrize("key", ["a.b", "a/b", "a\\b", "a b", "", ".."])
def test_invalid_keys_are_quarantined(manifest, tmp_path, key):
    edit(manifest, 4, key=key)
    pack(manifest, tmp_path / "o", "--max-bad-share", "0.1")
    assert open_dataset(tmp_path / "o").samples == 11
    assert "contain a dot, slash" in (tmp_path / "o/quarantine.jsonl").read_text()


def test_equal_keys_of_two_corpora_are_rejected(manifest, tmp_path, capsys):
    edit(manifest, 4, key="synthetic-007", corpus="other")
    pack(manifest, tmp_path / "o", code=1)
    assert "key synthetic-007 on records 5 and 8; keys must be unique in a dataset" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("line", [b"{", b'{"key": "x"}', b'{"key": "x", "audio": 3, "segments": []}', b"\xff\xfe"])
def test_damaged_manifest_is_rejected(manifest, tmp_path, capsys, line):
    with (manifest / RECORDINGS).open("ab") as file:
        file.write(line + b"\n")
    pack(manifest, tmp_path / "o", code=1)
    assert RECORDINGS in capsys.readouterr().err
    assert not (tmp_path / "o/dataset.json").exists()


# The output.


def test_full_disk_is_reported_and_the_rest_is_packed_later(tmp_path, capsys):
    make_noise_manifest(tmp_path / "m", 8, 5.0)  # 160 kB each
    with mounted(tmp_path / "disk", "-o", "size=1m") as disk:
        pack(tmp_path / "m", disk / "o", code=1)
        assert "No space left on device; free some space" in capsys.readouterr().err
        left = sorted(p.name for p in disk.rglob("*") if p.is_file())
        assert left == ["m-000000.parquet", "m-000000.tar"]
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        pack(tmp_path / "m", disk / "o")
        assert main(["verify", str(disk / "o")]) == 0


def test_read_only_output_is_reported(manifest, tmp_path, capsys):
    with mounted(tmp_path / "disk", "-o", "ro") as disk:
        pack(manifest, disk / "o", code=1)
        assert "Read-only file system; the filesystem is read-only; name another output" in capsys.readouterr().err


def test_output_that_is_a_file_is_reported(manifest, tmp_path, capsys):
    (tmp_path / "o").touch()
    pack(manifest, tmp_path / "o", code=1)
    assert "name another output" in capsys.readouterr().err


def test_second_packer_of_a_part_is_rejected(manifest, tmp_path, capsys):
    pack(manifest, tmp_path / "whole")
    storage = LocalStorage(tmp_path / "o")
    with storage.create("shards/m-000001.tar") as file:  # as another packer would
        file.write(b"begun")
        pack(manifest, tmp_path / "o", code=1)
        assert "m-000001.tar.tmp: another process is writing it; run one packer per part" in capsys.readouterr().err
        assert not (tmp_path / "o/dataset.json").exists()
        storage.delete("shards/m-000001.tar")
    pack(manifest, tmp_path / "o")
    content = [{p.name: p.read_bytes() for p in (tmp_path / o).rglob("*.*")} for o in ("o", "whole")]
    assert content[0] == content[1]


def test_simultaneous_packers_never_damage_the_output(manifest, tmp_path):
    """Either may be rejected; a third packer resumes to the same bytes."""
    pack(manifest, tmp_path / "whole")
    command = [sys.executable, "-m", "shards.cli", "pack", str(manifest), str(tmp_path / "o"), "--no-speakers"]
    both = [
        subprocess.Popen([*command, "--samples-per-shard", "4"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0 or b"run one packer per part" in err
    pack(manifest, tmp_path / "o")
    content = [{p.name: p.read_bytes() for p in (tmp_path / o).rglob("*.*")} for o in ("o", "whole")]
    assert content[0] == content[1]
