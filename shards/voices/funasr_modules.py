"""Import single modules of funasr, without the 5 s of CPU time that ``import funasr`` takes in every process.

``funasr/__init__.py`` imports all models of funasr. The project needs one encoder and one speaker network, and ranks,
packers and decoders start many processes. So an empty package is registered while the module is imported, and removed
afterwards: a later ``import funasr`` runs as usual and finds the modules already loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
from types import ModuleType

from shards.errors import ConfigError


def funasr_module(name: str) -> ModuleType:
    """Import ``funasr.…`` by its full dotted name.

    Raises:
        ConfigError: funasr is not installed, or has no such module.
    """
    try:
        if "funasr" in sys.modules:
            return importlib.import_module(name)
        spec = importlib.util.find_spec("funasr")
        if spec is None:
            raise ImportError("funasr is not installed")
        sys.modules["funasr"] = importlib.util.module_from_spec(spec)
        try:
            # It prints advice on ffmpeg for its own audio loader, which is not used.
            with contextlib.redirect_stdout(io.StringIO()):
                return importlib.import_module(name)
        finally:
            del sys.modules["funasr"]
    except ImportError as e:
        raise ConfigError(f"cannot import {name}: {e}; install the project with its pinned dependencies") from e
