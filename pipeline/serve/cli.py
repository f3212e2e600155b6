"""`speakerlm-serve`: transcribe for clients of OpenAI's API, with the names of enrolled people.

    speakerlm-serve exp/stage4 --enrol-dir people
    curl -T mike.wav http://127.0.0.1:8000/v1/speakers/Mike
    curl -F file=@meeting.wav -F model=stage4 -F response_format=text http://127.0.0.1:8000/v1/audio/transcriptions

It listens on this machine only, unless --host names another address; then clients need the key of the environment
variable SPEAKERLM_API_KEY. SIGTERM lets it answer the requests that it has, then it exits with code 0.
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.decode.context_line import HELP as CONTEXT_HELP
from pipeline.decode.context_line import read_terms, reads_context, require_context
from pipeline.decode.engine import ENGINES, QUANTIZE, QUANTIZE_HELP
from pipeline.serve.limits import MIB, Limits
from shards.arguments import natural, number_range, positive
from shards.commands import outcome, require
from shards.commands.parser import Parser
from shards.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.decode.engine import Engine
    from pipeline.serve.people import PeopleFolder
    from pipeline.transcribe.transcriber import Transcriber

KEY = "SPEAKERLM_API_KEY"
PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "websockets")
DEFAULT = Limits()

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(prog="speakerlm-serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=Path, metavar="MODEL", help="folder of a finished run, or of an exported model")
    p.add_argument("--enrol-dir", type=Path, metavar="DIR", help="people enrolled by PUT /v1/speakers/NAME, as vectors")
    p.add_argument("--keep-audio", action="store_true", help="store the clips of enrolled people too")
    p.add_argument("--name", help="of the model in the API (default: the folder's name)")
    p.add_argument(
        "--alias", action="append", default=[], metavar="NAME", help="further name, such as whisper-1; repeatable"
    )
    p.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    p.add_argument("--port", type=natural, default=8000, help="0: any free one (default: 8000)")
    p.add_argument(
        "--allow-origin", action="append", default=[], metavar="ORIGIN",
        help="of a web page that may use the server, such as https://example.org; repeatable",
    )  # fmt: skip
    model = p.add_argument_group("model")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 …; bfloat16 on a GPU")
    model.add_argument(
        "--engine", default="transformers", choices=ENGINES,
        help="vllm takes new chunks while others are written, and needs vLLM (default: transformers)",
    )  # fmt: skip
    model.add_argument("--batch", type=positive, default=8, help="chunks of all requests decoded together (default: 8)")
    model.add_argument(
        "--seconds", type=number_range, default=(40.0, 50.0), metavar="MIN-MAX",
        help="length of chunks; best as in training (default: 40-50)",
    )  # fmt: skip
    model.add_argument("--quantize", choices=QUANTIZE, help=QUANTIZE_HELP)
    model.add_argument(
        "--context", metavar="FILE|TERMS", help=f"{CONTEXT_HELP}; of all requests, beside their field 'prompt'"
    )
    model.add_argument("--channel", type=natural, help="take this channel, counted from 0 (default: the mean of all)")
    model.add_argument("--vad", default="silero", choices=("silero", "energy"), help="energy needs no weights")
    model.add_argument(
        "--naming", default="model", choices=("model", "voice"),
        help="names by the model from the enrolments in its prompt, or by similarity of voice",
    )  # fmt: skip
    model.add_argument("--same-voice", type=float, default=0.5, help="cosine from which two voices count as one person")
    model.add_argument("--extractor", metavar="NAME@SOURCE", help="if the model's is not found by its id")
    model.add_argument("--cache", type=Path, help="folder for weights from packages (default: SPEAKERLM_CACHE)")
    _add_limits(p.add_argument_group("limits"))
    return p


def _add_limits(p: argparse._ArgumentGroup) -> None:
    d = DEFAULT
    p.add_argument(
        "--max-upload", type=positive, default=d.upload_bytes // MIB, metavar="MIB",
        help=f"of a request (default: {d.upload_bytes // MIB})",
    )  # fmt: skip
    p.add_argument("--max-hours", type=float, default=d.hours, help=f"of a recording (default: {d.hours:g})")
    p.add_argument(
        "--max-requests", type=positive, default=d.requests,
        help=f"in the server, uploads and waiting ones included; more get 429 (default: {d.requests})",
    )  # fmt: skip
    p.add_argument(
        "--running", type=positive, default=d.running, help=f"of them, transcribed at a time (default: {d.running})"
    )
    p.add_argument("--max-live", type=positive, default=d.live, help=f"live sessions (default: {d.live})")
    p.add_argument(
        "--max-people", type=positive, default=d.people, help=f"enrolled, or known in a request (default: {d.people})"
    )
    p.add_argument(
        "--timeout", type=positive, default=round(d.request_seconds), help="seconds of a request (default: 3600)"
    )
    p.add_argument(
        "--drain", type=positive, default=round(d.drain_seconds),
        help="seconds for requests that are being answered, after SIGTERM (default: 60)",
    )  # fmt: skip
    p.add_argument("--spool", type=Path, help="folder for uploads while they are transcribed (default: TMPDIR)")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``speakerlm-serve``."""
    args = parser().parse_args(argv)
    return outcome("speakerlm-serve", lambda: _run(args), after_interrupt="start it again")


def _run(args: argparse.Namespace) -> int:
    for package in PACKAGES:
        require(package, "serve", "speakerlm-serve")
    key = os.environ.get(KEY) or None
    if key is None and not _loopback(args.host):
        raise ConfigError(f"--host {args.host} can be reached by others: set {KEY} to a key that clients must send")
    if args.seconds[0] < 1:
        raise ConfigError(f"--seconds: chunks of {args.seconds[0]:g} s are too short; 1 or more, such as 40-50")
    _check_model(args)
    from pipeline.serve.server import Server, bind

    try:
        listener = bind(args.host, args.port)
    except OSError as e:
        raise ConfigError(f"cannot listen on {args.host}:{args.port}: {e}; choose another --port") from e
    from pipeline.serve.service import Service

    transcriber, engine = _load(args)
    people = _people(args, transcriber)
    names = list(dict.fromkeys([args.name or args.model.resolve().name, *args.alias]))
    with tempfile.TemporaryDirectory(prefix="speakerlm-serve-", dir=args.spool) as spool, listener:
        context = reads_context(args.model)
        service = Service(transcriber, engine, names, Path(spool), _limits(args), people, args.batch, context)
        try:
            host, port = listener.getsockname()[:2]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"

            def ready() -> None:
                print(address, flush=True)
                logger.info("serving %s as %s", args.model, ", ".join(names))

            Server(service, key, args.allow_origin, ready).run(sockets=[listener])
        finally:
            service.close()
    return 0


def _check_model(args: argparse.Namespace) -> None:
    """Refuse a model of dialogues, or one that reads no context, before anything is loaded."""
    from pipeline.transcribe.load_model import dialogue_rules

    if dialogue_rules(args.model) is not None:
        raise ConfigError(
            f"{args.model} was trained on dialogues (stages 11 to 13); speakerlm-serve takes stages 1 to 4"
        )
    require_context(args.model, bool(read_terms(args.context)))


def _load(args: argparse.Namespace) -> tuple[Transcriber, Engine]:
    """Load the engine, and the transcriber with the options of the command line."""
    from pipeline.decode.generate import choose_device
    from pipeline.decode.load_engine import load_engine
    from pipeline.transcribe.transcriber import TranscribeOptions, Transcriber
    from shards.manifests.clip_rule import rule_of

    rule = rule_of(*args.seconds)
    options = TranscribeOptions(
        rule, args.batch, args.channel, args.vad, args.naming, args.same_voice, context=read_terms(args.context)
    )
    loaded = load_engine(args.model, choose_device(args.device), args.engine, options.guards, args.batch, args.quantize)
    paths = {"device": args.device, "cache": args.cache, "extractor": args.extractor}
    return Transcriber.of(loaded, options, model=str(args.model), **paths), loaded.engine


def _people(args: argparse.Namespace, transcriber: Transcriber) -> PeopleFolder | None:
    """Open the folder of enrolled people; the speaker model is loaded for it."""
    from pipeline.serve.people import PeopleFolder

    if args.enrol_dir is None:
        return None
    if not transcriber.registers:
        raise ConfigError(f"{args.model} is of stage 1, which writes words but no names: leave --enrol-dir out")
    extractor = transcriber.extractor
    return PeopleFolder(args.enrol_dir, extractor.id, extractor.sha256, args.max_people, args.keep_audio)


def _limits(args: argparse.Namespace) -> Limits:
    return Limits(
        upload_bytes=args.max_upload * MIB,
        hours=args.max_hours,
        people=args.max_people,
        requests=args.max_requests,
        running=args.running,
        live=args.max_live,
        request_seconds=float(args.timeout),
        drain_seconds=float(args.drain),
    )


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main())
