"""`python -m pipeline.preflight`: the same as `speakerlm-preflight`."""

from __future__ import annotations

import sys

from pipeline.preflight.cli import main

sys.exit(main())
