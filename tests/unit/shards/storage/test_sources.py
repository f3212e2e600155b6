"""Files, URLs and commands as sources of audio: real processes, a real HTTP server, S3 in this process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.errors import AudioError, StorageError
from shards.storage import sources
from shards.storage.sources import Command, joined, local_file, located
from tests.support.http_server import Step, scripted
from tests.support.s3 import FakeS3, fake_s3

DATA = bytes(range(256)) * 64


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)


def page(status: int, sent: int) -> Step:
    """An answer of which only so many bytes are sent."""
    return {"status": status, "body": DATA, "cut": len(DATA) - sent}


@pytest.fixture
def s3(no_waits: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    sources._bucket.cache_clear()
    with fake_s3() as server:
        for name, value in (("ENDPOINT_URL", server.endpoint), ("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "s")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield server
    sources._bucket.cache_clear()


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("a/../b.wav", "/data/b.wav"),
        ("/x/y.wav", "/x/y.wav"),
        ("s3://bucket/a/../b.wav", "s3://bucket/a/../b.wav"),
        ("https://host/a.wav?sig=1", "https://host/a.wav?sig=1"),
        ("file:///x/a%20b.wav", "/x/a b.wav"),
    ],
)
def test_paths_are_joined_and_urls_are_not(source: str, place: str) -> None:
    assert located("/data", source) == place
    assert joined("/data", source) == place.replace("/data/b", "/data/a/../b")


def test_file_is_used_where_it_is(tmp_path: Path) -> None:
    with local_file(tmp_path / "a.wav") as path:
        assert path == tmp_path / "a.wav"


def test_s3_object_is_copied_and_removed(s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.storage.s3.READ_BYTES", 1000)
    s3.objects["a/b c.flac"] = DATA
    with local_file("s3://bucket/a/b c.flac") as path:
        assert (path.read_bytes(), path.suffix) == (DATA, ".flac")
    assert not path.exists()


def test_a_missing_object_is_one_recording_and_a_refusing_server_is_not(s3: FakeS3) -> None:
    for url in ("s3://bucket/none.wav", "s3://bucket"):
        with pytest.raises(AudioError, match=f"{url}: no such object"), local_file(url):
            pass
    s3.refusal = 400, "<Code>ExpiredToken</Code>"
    with (
        pytest.raises(StorageError, match=r"none.wav: the session token has expired"),
        local_file("s3://bucket/none.wav"),
    ):
        pass


def test_errors_of_the_block_name_the_url(s3: FakeS3) -> None:
    s3.objects["x.wav"] = DATA
    with pytest.raises(AudioError, match=r"^s3://bucket/x.wav: truncated"), local_file("s3://bucket/x.wav") as path:
        raise AudioError(f"{path}: truncated")


@pytest.mark.usefixtures("no_waits")
def test_page_is_copied_after_faults() -> None:
    steps = [page(503, 0), page(200, 100), page(429, 0), page(200, len(DATA))]
    with scripted(steps) as (url, seen), local_file(f"{url}/ä b.mp3?sig=1") as path:
        assert (path.read_bytes(), path.suffix) == (DATA, ".mp3")
    assert [asked for asked, _, _ in seen] == ["/%C3%A4%20b.mp3?sig=1"] * 4


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize(
    ("status", "sent", "error", "message"),
    [
        (404, 0, AudioError, "x.wav: 404"),
        (403, 0, StorageError, "x.wav: 403 Forbidden; the server refuses"),
        (500, 0, StorageError, "x.wav: 500 Internal Server Error; check the network"),
        (200, 100, StorageError, rf"x.wav: 100 of {len(DATA)} bytes"),
    ],
)
def test_errors_of_pages(status: int, sent: int, error: type[Exception], message: str) -> None:
    with (
        scripted([page(status, sent)]) as (url, _),
        pytest.raises(error, match=message) as caught,
        local_file(f"{url}/x.wav?sig=secret"),
    ):
        pass
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("no_waits")
def test_no_server_and_no_such_kind() -> None:
    with pytest.raises(StorageError, match="Connection refused; check the network"), local_file("http://127.0.0.1:9/x"):
        pass
    with pytest.raises(AudioError, match="gs://b/x: unsupported kind of URL"), local_file("gs://b/x"):
        pass


# ------------------------------------------------------------------------------------------------------------ commands


def run(line: str, folder: Path, seconds: float = 30.0) -> bytes:
    return Command(line, folder, folder / "out/x.wav", seconds).run().read_bytes()


@pytest.mark.parametrize("end", ["", " |", "|"])
def test_command_runs_in_its_folder(tmp_path: Path, end: str) -> None:
    (tmp_path / "a b").write_bytes(DATA)
    assert run(f"cat 'a b'{end}", tmp_path) == DATA


def test_no_shell_without_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: pytest.fail("a shell"))
    assert run("printf %s 'x y' |", tmp_path) == b"x y"


@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("printf abc | tr a-z A-Z |", b"ABC"),
        ("printf %s $((1+1)) |", b"2"),
        ("cat < in* |", b"in"),
        ("(echo x)", b"x\n"),
    ],
)
def test_pipes_variables_and_patterns_are_the_shells(tmp_path: Path, line: str, output: bytes) -> None:
    (tmp_path / "input").write_bytes(b"in")
    assert run(line, tmp_path) == output


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no-such-program-here x |", "No such file or directory: 'no-such-program-here'"),
        ("cat missing.sph |", "exit status 1; stderr: cat: missing.sph: No such file"),
        ("cat missing.sph | cat |", "exit status 1; stderr: cat: missing.sph: No such file"),  # not the last of a pipe
        ("true |", "no output; stderr is empty"),
        ("cat 'unclosed |", "No closing quotation"),
        ("|", "it is empty"),
        ("printf '%9999d' 7 >&2; exit 3 |", r"exit status 3; stderr: 7"),
    ],
)
def test_a_failed_command_names_its_reason_and_leaves_no_file(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        run(line, tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_long_stderr_is_cut(tmp_path: Path) -> None:
    with pytest.raises(AudioError) as caught:
        run(
            "for i in 1 2 3 4 5; do printf '%s' wwwwwwwwww%.0s {1..1000} >&2; done; echo the end >&2; false |", tmp_path
        )
    assert str(caught.value).endswith("the end")
    assert len(str(caught.value)) < 700


def test_a_slow_pipeline_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"not done after 0\.5 s; stderr: begun"):
        run("echo begun >&2; sleep 60 | (echo $BASHPID > pid; exec sleep 60) |", tmp_path, 0.5)
    child = int((tmp_path / "pid").read_text())
    for _ in range(200):
        try:
            state = Path(f"/proc/{child}/stat").read_text().split()[2]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    os.kill(child, 9)
    pytest.fail("a process of the pipeline still runs")
