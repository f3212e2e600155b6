"""Packages of the distribution; all else is declared in pyproject.toml.

``pipeline`` and ``shards`` are names of other distributions, too. A wheel therefore holds them in ``speakerlm/root``,
in the layout of the checkout, and ``import speakerlm`` finds them there (launch/speakerlm/__init__.py). An editable
install is the checkout, with the names that the code has.
"""

import sys

from setuptools import find_packages, setup

PACKAGES = ("pipeline", "shards")
FILES = {
    "pipeline": ["evaluation/templates/*", "baselines/prompts/*"],
    "shards": ["dataset/templates/*"],
    "launch/recipes": ["*.md", "*/*.yaml"],
    "ds_configs": ["*.md", "*.json"],
}


def installed(folder: str) -> str:
    """Return the dotted name under which a folder is installed."""
    name = folder.replace("/", ".")
    return name if "editable_wheel" in sys.argv else f"speakerlm.root.{name}"


setup(
    packages=[
        "speakerlm",
        *(installed(name) for name in find_packages() if name.split(".")[0] in PACKAGES),
        *(installed(folder) for folder in FILES if folder not in PACKAGES),
    ],
    package_dir={"speakerlm": "launch/speakerlm"} | {installed(folder): folder for folder in FILES},
    package_data={installed(folder): patterns for folder, patterns in FILES.items()},
    include_package_data=False,
)
