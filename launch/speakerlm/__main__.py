"""``python -m speakerlm COMMAND``, and the form for launchers: ``deepspeed --module speakerlm train …``."""

from __future__ import annotations

import sys

from speakerlm.cli import main

if __name__ == "__main__":
    sys.exit(main())
