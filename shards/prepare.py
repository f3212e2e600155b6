"""``speakerlm-shards prepare CORPUS ROOT OUT``: a corpus as manifest folders, with an audit of each."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from shards.arguments import positive
from shards.corpora import corpus_names, find_corpus
from shards.errors import ManifestError
from shards.manifests.manifest import write_manifest
from shards.manifests.prepared import PrepareOptions
from shards.manifests.summary import Summary
from shards.manifests.text_policy import POLICIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PrepareOptions of the command."""
    add = parser.add_argument
    add("corpus", help=f"one of: {', '.join(corpus_names())}")
    add("root", type=Path, help="folder (or file) of the corpus; for packaged-speech, the download cache")
    add("out", type=Path, help="folder for the manifests, one subfolder each")
    add("--workers", type=positive, default=os.cpu_count() or 1, help="threads or processes that open audio")
    add("--text", choices=sorted(POLICIES), help="text policy; default: plain for known corpora, raw for generic ones")
    generic = parser.add_argument_group("generic formats (jsonl, kaldi, lhotse, tars, transcripts)")
    generic.add_argument("--name", default="", help="name of the corpus (default: that of the folder)")
    generic.add_argument("--language", default="und", help="where the format does not say")
    session = "a speaker's id means somebody else in every session: nobody knows the person"
    generic.add_argument("--session-speakers", action="store_true", help=session)
    generic.add_argument("--audio", type=Path, help="folder of the audio, where it is not under ROOT")


def run(args: argparse.Namespace) -> int:
    """Prepare the corpus and print what each manifest holds and lacks."""
    options = PrepareOptions(args.workers, args.text, args.name, args.language, args.session_speakers, args.audio)
    made = 0
    for prepared in find_corpus(args.corpus)(args.root, args.out, options):
        counted = Summary()
        own = prepared.audit

        def audit(counted: Summary = counted, own: Any = own) -> dict[str, Any]:
            return counted.result() | dict(own() if callable(own) else own)

        folder = args.out / prepared.name
        write_manifest(folder, counted.over(prepared.recordings), prepared.speakers, audit)
        made += counted.recordings
        print("\n".join(told(folder, audit())))
    if not made:
        raise ManifestError(f"{args.root}: no recording of {args.corpus} could be used; see audit.json in {args.out}")
    return 0


def told(folder: Path, audit: dict[str, Any]) -> list[str]:
    """The audit in a few lines."""
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
