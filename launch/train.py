"""Train stages from a checkout: `deepspeed launch/train.py RECIPE …`, the same as `speakerlm-train`; see --help."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout wins over any other package called pipeline or shards

if __name__ == "__main__":
    from pipeline.train.cli import main

    sys.exit(main())
