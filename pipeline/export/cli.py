"""`speakerlm-export`: a finished run as a Hugging Face folder, tensor by tensor on a CPU; uploaded if asked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shards.commands import outcome
from shards.commands.parser import Parser
from shards.errors import ConfigError

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``speakerlm-export``."""
    p = Parser(
        prog="speakerlm-export",
        description="Write a finished run as a folder that transformers loads with trust_remote_code, with a PEFT "
        "adapter and a model card. Needs no GPU and no more memory than the largest tensor.",
    )
    p.add_argument("run", type=Path, help="folder of a finished run")
    p.add_argument("out", type=Path, help="folder to make")
    p.add_argument("--merge", action="store_true", help="add LoRA to the LLM's weights, so that peft is not needed")
    p.add_argument(
        "--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"], help="auto: that of the LLM"
    )
    p.add_argument("--max-shard-size", default="4GB", help="largest weight file, such as 500MB (default: 4GB)")
    p.add_argument("--scores", type=Path, help="scores.json to show in the model card (default: the run's own, if any)")
    hub = p.add_argument_group("upload", "to the Hugging Face Hub, with the token of HF_TOKEN or of `hf auth login`")
    hub.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload the folder; the repository is made if missing")
    hub.add_argument("--private", action="store_true", help="make the repository private, if it does not exist yet")
    hub.add_argument("--revision", metavar="BRANCH", help="upload to this branch (default: main)")
    args = p.parse_args(argv)
    return outcome("speakerlm-export", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    largest = parse_bytes(args.max_shard_size)
    if not args.push_to_hub and (args.private or args.revision):
        raise ConfigError("--private and --revision belong to --push-to-hub OWNER/NAME")
    from pipeline.export.folder import check_export, export
    from pipeline.export.upload import Upload

    check_export(args.run, args.out)
    upload = Upload(args.push_to_hub, args.private, args.revision) if args.push_to_hub else None
    if upload:
        upload.prepare()
    export(args.run, args.out, args.merge, args.dtype, largest, args.scores)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{args.out}: {size / 1e9:.3f} GB")
    if upload:
        print(f"uploaded: {upload.send(args.out)}")
    return 0


def parse_bytes(text: str) -> int:
    """``500MB`` → 500,000,000.

    Raises:
        ConfigError: not a number and KB, MB or GB.
    """
    number, unit = text[:-2].strip(), text[-2:].upper()
    if unit not in UNITS or not number.replace(".", "", 1).isdigit() or float(number) <= 0:
        raise ConfigError(f"--max-shard-size {text}: write a number and KB, MB or GB, such as 4GB")
    return int(float(number) * UNITS[unit])


if __name__ == "__main__":
    sys.exit(main())
