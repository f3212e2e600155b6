"""Requests to an endpoint of OpenAI's protocol: one attempt, whether to repeat it, and after how long."""

from __future__ import annotations

from dataclasses import dataclass

from shards.errors import ConfigError

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)  # HTTP statuses after which a request is repeated
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """Outcome of one attempt."""

    status: int | None  # None: no whole answer; the text says why
    text: str
    content_type: str = ""
    asked_wait_s: float | None = None  # as ``Retry-After`` says

    @property
    def refused(self) -> bool:
        """Whether it is of no use to ask again."""
        return self.status is not None and self.status not in RETRIED

    @property
    def why(self) -> str:
        """Return why it is no success, for a message."""
        return self.text if self.status is None else f"HTTP {self.status}: {self.text[:200]}"

    def wait_s(self, attempt: int) -> float:
        """Return how long to wait before the next attempt; they are counted from 0."""
        return min(LONGEST_WAIT_S, self.asked_wait_s if self.asked_wait_s is not None else 2.0**attempt)


def post(
    url: str, path: str, body: bytes, key: str | None, timeout_s: float, content_type: str = "application/json"
) -> Answer:
    """Send one request; the text of the answer has asterisks in place of the key, which a server may repeat.

    Args:
        url: of the endpoint, and ``path`` below it.
        key: sent as a bearer token.
        timeout_s: for connecting, and between two pieces of an answer.

    Raises:
        ConfigError: the address is invalid.
    """
    import urllib3

    headers = {"Content-Type": content_type} | ({"Authorization": f"Bearer {key}"} if key else {})
    address = f"{url.rstrip('/')}/{path}"
    try:
        got = urllib3.request(
            "POST", address, body=body, headers=headers, timeout=timeout_s, retries=False, redirect=False
        )
    except (urllib3.exceptions.LocationValueError, urllib3.exceptions.LocationParseError) as error:
        raise ConfigError(f"{url}: no address ({error})") from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        return Answer(None, _without(key, f"{type(error).__name__}: {error}"))
    asked = got.headers.get("Retry-After", "")
    wait_s = float(asked) if asked.isdecimal() else None
    text = _without(key, got.data.decode(errors="replace"))
    return Answer(got.status, text, got.headers.get("Content-Type", ""), wait_s)


def _without(key: str | None, text: str) -> str:
    return text.replace(key, "***") if key else text
