"""How a command ends: with its own exit code, with one line that says what is wrong, or interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable

from shards.errors import SpeakerLMError

INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it


def outcome(program: str, work: Callable[[], int], after_interrupt: str = "run it again") -> int:
    """Exit code of a command; no traceback for what its user caused.

    Args:
        work: the command; an OSError of its is a disk that is full, a folder that cannot be written.
        after_interrupt: what to do when Ctrl-C has ended it.
    """
    try:
        return work()
    except (SpeakerLMError, OSError) as e:
        print(f"{program}: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; {after_interrupt}", file=sys.stderr)
        return INTERRUPTED
