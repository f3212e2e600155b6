"""Starts the project's commands from any folder: from a checkout, or installed from a wheel.

``pipeline`` and ``shards`` are names that other distributions use, too. A wheel therefore installs them below this
package, in ``root``, next to ``launch/recipes`` and ``ds_configs``: other packages stay as they are, and none of their
files is overwritten. Importing ``speakerlm`` puts that folder first on ``sys.path``, for this process and for those
that it starts by multiprocessing, so that the project's commands find the project's packages.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

NAMES = ("shards", "pipeline")
_HERE = Path(__file__).resolve().parent
ROOT = _HERE / "root" if (_HERE / "root").is_dir() else _HERE.parents[1]


def put_first(root: Path = ROOT) -> None:
    """Let ``import shards`` and ``import pipeline`` find the packages in ``root``.

    Raises:
        ImportError: another package of such a name is imported already, or is found before this one.
    """
    if str(root) in sys.path:
        sys.path.remove(str(root))
    sys.path.insert(0, str(root))
    for name in NAMES:
        loaded = sys.modules.get(name)
        origin = getattr(loaded, "__file__", None) if loaded else getattr(find_spec(name), "origin", None)
        if origin is None or Path(origin).resolve() != root / name / "__init__.py":
            raise ImportError(
                f"speakerlm needs its own package {name!r} of {root}, but {origin or 'a namespace package'} "
                f"{'is imported already' if loaded else 'is found before it'}: import speakerlm first, in a process "
                f"that does not use the other {name!r}",
                name=name,
                path=origin,
            )


put_first()
