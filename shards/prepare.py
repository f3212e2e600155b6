"""``speakerlm-shards prepare CORPUS ROOT OUT``: write the manifests of a corpus, each with an audit."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from shards.arguments import positive
from shards.corpora import corpus_names, find_corpus
from shards.errors import ManifestError
from shards.manifests.manifest import write_manifest
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.summary import Summary
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
    generic.add_argument("--audio", type=Path, help="folder of the audio if it is outside ROOT")


def run(args: argparse.Namespace) -> int:
    """Write the manifests and print a summary of each audit."""
    options = PrepareOptions(args.workers, args.text, args.name, args.language, args.session_speakers, args.audio)
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


def audit_lines(folder: Path, audit: dict[str, Any]) -> list[str]:
    """Summarize an audit in a few lines."""
    lines = [
        f"{folder}: {audit['recordings']} recordings of {audit['sessions']} sessions, "
        f"{audit['num_speakers']} speakers, {audit['hours']:.2f} h of speech, {audit['overlap']:.1%} of it overlapped"
    ]
    text = audit.get("text")
    if isinstance(text, dict):
        kinds = ("with_punctuation", "with_lower_case", "with_digits")
        shares = ", ".join(f"{text[k]} {k.replace('_', ' ')}" for k in kinds)
        lines.append(f"  text {text['policy']}: {text['means']}; of {text['texts']} texts {shares}")
    for kind in ("skipped", "changed"):
        lines += [f"  {kind} {count} × {reason}" for reason, count in audit.get(kind, {}).items()]
    return lines
