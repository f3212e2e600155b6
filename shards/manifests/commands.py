"""Commands of manifests, and the files that keep what they write."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from shards.errors import ConfigError
from shards.manifests.keys import plain_key
from shards.manifests.prepare_types import PrepareOptions
from shards.storage.sources import Command


@dataclass(frozen=True)
class Commands:
    """Makes the commands of a manifest; relative paths in them refer to ``--audio`` or the current folder."""

    output: Path  # folder of the files
    options: PrepareOptions

    @property
    def allowed(self) -> bool:
        """Return whether the command line allows commands."""
        return self.options.command_seconds is not None

    @property
    def folder(self) -> Path:
        """The folder in which commands are run."""
        return self.options.audio or Path()

    def of(self, recording: str, line: str) -> Command:
        """Return the command of a recording."""
        if self.options.command_seconds is None:
            raise ConfigError(f"{recording}: {line!r} is a command; use --allow-commands if you trust the manifest")
        digest = hashlib.blake2b(f"{recording}\n{line}".encode(errors="surrogatepass"), digest_size=8).hexdigest()
        output = self.output / f"{plain_key(recording)[:40]}-{digest}.wav"
        return Command(line, self.folder, output.absolute(), self.options.command_seconds)
