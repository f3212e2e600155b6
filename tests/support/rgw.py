"""A real S3 server for tests, shared with the benchmarks; ``python tests/support/rgw.py --install`` installs it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.support import servers
from benchmarks.support.rgw import PACKAGES, PROGRAMS, SECRET, Gateway, gateway, missing

__all__ = ["PACKAGES", "SECRET", "Gateway", "gateway", "missing"]

if __name__ == "__main__":
    servers.install_if_asked(PACKAGES, PROGRAMS)
