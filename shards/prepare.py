"""``speakerlm-shards prepare CORPUS ROOT OUT``: write the manifests of a corpus, each with an audit."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from shards.arguments import non_negative, positive
from shards.corpora import corpus_names, find_corpus
from shards.errors import ManifestError
from shards.manifests.manifest import write_manifest
from shards.manifests.prepare_types import COMMAND_SECONDS, Prepared, PrepareOptions
from shards.manifests.summary import Summary, audit_lines
from shards.manifests.text_policy import POLICIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("corpus", help=f"one of: {', '.join(corpus_names())}")
    add("root", type=Path, help="folder or file of the corpus; for packaged-speech the download cache")
    add("out", type=Path, help="output folder, one subfolder per manifest")
    add("--workers", type=positive, default=os.cpu_count() or 1, help="threads or processes that read audio")
    policy = "text policy (default: plain for known corpora, raw for generic formats)"
    add("--text", choices=sorted(POLICIES), help=policy)
    generic = parser.add_argument_group("generic formats (jsonl, kaldi, lhotse, tars, transcripts)")
    generic.add_argument("--name", default="", help="name of the corpus (default: the folder's name)")
    generic.add_argument("--language", default="und", help="language of recordings for which the format gives none")
    session = "speaker ids are unique within a session only, so persons are unknown"
    generic.add_argument("--session-speakers", action="store_true", help=session)
    generic.add_argument("--audio", type=_folder, help="folder of the audio if it is outside ROOT")
    generic.add_argument(
        "--untranscribed",
        default="",
        metavar="NAME,…",
        help="manifests whose speech may lack words, such as enrolment clips: it is kept (default: skipped)",
    )
    generic.add_argument(
        "--allow-commands",
        nargs="?",
        const=COMMAND_SECONDS,
        type=non_negative,
        metavar="SECONDS",
        help="run the commands in wav.scp and Lhotse recordings, each for at most SECONDS (default "
        f"{COMMAND_SECONDS:g}), and keep their output under OUT/audio; only for manifests that you trust",
    )


def _folder(text: str) -> Path:
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a local folder; URLs of files may be in the manifest")
    return Path(text)


def run(args: argparse.Namespace) -> int:
    """Write the manifests and print a summary of each audit."""
    options = PrepareOptions(
        workers=args.workers,
        text=args.text,
        name=args.name,
        language=args.language,
        session_speakers=args.session_speakers,
        audio=args.audio,
        untranscribed=frozenset(filter(None, args.untranscribed.split(","))),
        command_seconds=args.allow_commands,
    )
    recordings = 0
    for prepared in find_corpus(args.corpus)(args.root, args.out, options):
        folder = args.out / prepared.name
        audit = write_prepared(folder, prepared)
        recordings += audit["recordings"]
        print("\n".join(audit_lines(folder, audit)))
    if not recordings:
        raise ManifestError(
            f"{args.root}: no usable recording of {args.corpus}; see audit.json in the subfolders of {args.out}"
        )
    return 0


def write_prepared(folder: Path, prepared: Prepared) -> dict[str, Any]:
    """Write a manifest of a corpus; returns its audit."""
    summary = Summary()

    def audit() -> dict[str, Any]:
        own = prepared.audit
        return summary.result() | dict(own() if callable(own) else own)

    write_manifest(folder, summary.counting(prepared.recordings), prepared.speakers, audit)
    return audit()
