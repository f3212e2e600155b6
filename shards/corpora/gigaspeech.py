"""GigaSpeech: 10,000 hours of English from the web; ``GigaSpeech.json`` and long Opus files beside it.

The same shape as WenetSpeech, with the text in ``text_tn``: punctuation is written ``<COMMA> <PERIOD> <QUESTIONMARK>
<EXCLAMATIONPOINT>``, and ``<SIL> <NOISE> <MUSIC> <OTHER>`` alone are no speech. Policy ``plain`` drops them all; with
``raw`` the punctuation is put back as signs. Gives the subsets ``train-xl`` … ``train-xs`` (nested), ``dev``, ``test``.
"""

from __future__ import annotations

import re
from pathlib import Path

from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.long_audio import LongAudio
from shards.manifests.prepared import Prepared, PrepareOptions

SUBSETS = {f"train-{size}": f"{{{size.upper()}}}" for size in ("xl", "l", "m", "s", "xs")}
SUBSETS |= {"dev": "{DEV}", "test": "{TEST}"}
_SIGNS = {"COMMA": ",", "PERIOD": ".", "QUESTIONMARK": "?", "EXCLAMATIONPOINT": "!"}
_GARBAGE = re.compile(r"\s*<(?:SIL|NOISE|MUSIC|OTHER)>\s*")


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """The subsets."""
    listing = root / "GigaSpeech.json"
    if not listing.is_file():
        raise corpus_not_found(root, "GigaSpeech", "GigaSpeech.json and the folder audio")
    return [
        LongAudio("gigaspeech", "en", listing, name, subset, "text_tn", options, punctuated).prepared()
        for name, subset in SUBSETS.items()
    ]


def punctuated(text: str) -> str:
    """``HELLO <COMMA> YOU <PERIOD>`` → ``HELLO, YOU.``; an utterance that is no speech → ""."""
    if _GARBAGE.fullmatch(text):
        return ""
    return re.sub(r"\s*<(COMMA|PERIOD|QUESTIONMARK|EXCLAMATIONPOINT)>", lambda m: _SIGNS[m[1]], text)
