"""Upload an exported folder to the Hugging Face Hub, with the token of ``HF_TOKEN`` or of ``hf auth login`` alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.export.carry import VAD, WEIGHTS
from shards.errors import ConfigError, StorageError

# Files of an earlier upload that a new one may not have: weights cut otherwise, the adapter of a merged model, code,
# an extractor that is not carried any more.
REPLACED = ["*.safetensors", "*.safetensors.index.json", "adapter/*", "*.py", f"{WEIGHTS}.*", VAD]
REFUSED = {
    401: "refused the token: it is wrong, or no longer valid. Make one with write permission at "
    "https://huggingface.co/settings/tokens, and set HF_TOKEN or run `hf auth login`",
    403: "does not let this token write there: check the owner's name, or make a token with write permission at "
    "https://huggingface.co/settings/tokens",
    404: "has no such owner, or shows it to other accounts only: check the name and the token",
    409: "has something else of this name: choose another",
}


@dataclass(frozen=True)
class Upload:
    """The target of an upload."""

    name: str  # owner/name
    private: bool = False  # of a repository that does not exist yet
    revision: str | None = None  # branch; made if it does not exist

    def prepare(self) -> None:
        """Make the repository and the branch, so that a wrong name or token is an error before the weights are read.

        Raises:
            ConfigError: there is no token, or the Hub refuses it or the name.
            StorageError: the Hub cannot be reached.
        """
        from huggingface_hub import HfApi, get_token

        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise ConfigError("--push-to-hub needs the network, and HF_HUB_OFFLINE is set")
        if not get_token():
            raise ConfigError("--push-to-hub needs a token: set HF_TOKEN, or run `hf auth login`")
        with _plain_errors(self.name):
            HfApi().create_repo(self.name, private=self.private or None, exist_ok=True)
            if self.revision:
                HfApi().create_branch(self.name, branch=self.revision, exist_ok=True)

    def send(self, folder: Path) -> str:
        """Upload the folder, and remove what an earlier upload left of other weights. Return the commit's address.

        Raises:
            ConfigError, StorageError: as of :meth:`prepare`; the folder stays, and can be uploaded again.
        """
        from huggingface_hub import HfApi

        again = f"hf upload {self.name} {folder}" + (f" --revision {self.revision}" if self.revision else "")
        with _plain_errors(self.name, f"; {folder} is whole: `{again}` uploads it"):
            found = HfApi().upload_folder(
                repo_id=self.name,
                folder_path=folder,
                revision=self.revision,
                commit_message="Upload SpeakerLM",
                delete_patterns=REPLACED,
            )
        return str(found.commit_url)


@contextmanager
def _plain_errors(name: str, after: str = "") -> Iterator[None]:
    """Say what the Hub's client raises in a line without the token, which a server's answer may repeat."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except HFValidationError as e:
        raise ConfigError(f"--push-to-hub {name}: {e}") from None
    except Exception as e:  # noqa: BLE001 - the client raises its own, those of its HTTP library and of the system
        status = _status(e)
        if isinstance(e, HfHubHTTPError) and status in REFUSED:
            raise ConfigError(f"--push-to-hub {name}: the Hub {REFUSED[status]}{after}") from None
        said = (str(e).strip().splitlines() or [""])[0].replace(get_token() or "\n", "***")
        raise StorageError(
            f"--push-to-hub {name}: the upload failed: {type(e).__name__}: {said}. Check the network{after}"
        ) from None


def _status(error: Any) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
