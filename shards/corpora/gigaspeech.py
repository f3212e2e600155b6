"""GigaSpeech: 10,000 hours of English from the web; ``GigaSpeech.json`` and long Opus files.

The format of WenetSpeech, with the text in ``text_tn``: punctuation is written ``<COMMA> <PERIOD> <QUESTIONMARK>
<EXCLAMATIONPOINT>``; segments of ``<SIL>``, ``<NOISE>``, ``<MUSIC>`` or ``<OTHER>`` alone contain no speech. The text
policy ``plain`` drops all tags; ``raw`` restores the punctuation. Manifests: the nested subsets ``train-xl`` …
``train-xs``, ``dev``, ``test``.
"""

from __future__ import annotations

import re
from pathlib import Path

from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.long_audio_lists import LongAudio
from shards.manifests.prepare_types import Prepared, PrepareOptions

SUBSETS = {f"train-{size}": f"{{{size.upper()}}}" for size in ("xl", "l", "m", "s", "xs")}
SUBSETS |= {"dev": "{DEV}", "test": "{TEST}"}
_SIGNS = {"COMMA": ",", "PERIOD": ".", "QUESTIONMARK": "?", "EXCLAMATIONPOINT": "!"}
_GARBAGE = re.compile(r"\s*<(?:SIL|NOISE|MUSIC|OTHER)>\s*")


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return a manifest per subset."""
    listing = root / "GigaSpeech.json"
    if not listing.is_file():
        raise corpus_not_found(root, "GigaSpeech", "GigaSpeech.json and the folder audio")
    return [
        LongAudio("gigaspeech", "en", listing, name, subset, options, punctuated).prepared()
        for name, subset in SUBSETS.items()
    ]


def punctuated(text: str) -> str:
    """Restore punctuation: ``HELLO <COMMA> YOU <PERIOD>`` → ``HELLO, YOU.``; utterances without speech → ""."""
    if _GARBAGE.fullmatch(text):
        return ""
    return re.sub(r"(?:(?<!\s)\s+)?<(COMMA|PERIOD|QUESTIONMARK|EXCLAMATIONPOINT)>", lambda m: _SIGNS[m[1]], text)
