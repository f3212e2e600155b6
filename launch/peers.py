"""One page of the demo's test sets with other systems beside ours: two packaged cascades, one corrected by an LLM.

    python launch/peers.py                  # after `make demo`; `make reason` adds the reasoner
    python launch/peers.py --limit 4 --llm http://localhost:8000/v1 --llm-model NAME

The demo's own transcripts are those that `make demo` (SpeakerLM after stage 4) and `make reason` (the reasoner after
stage R3) left; what is not there is named and omitted. Needs the extra ``baselines``. Each step is a command with its
log in DIR/peers/logs; a second call continues where the first one stopped. SmolLM2, the default LLM, shows the wiring:
it is too small to correct anything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from chain import decoded
from shards.arguments import positive
from shards.commands.parser import Parser
from shards.errors import ConfigError
from shards.weights.fetch import cache_folder
from steps import ROOT, Step, run_steps

TESTS = ("test-simulated", "test-harder")
DIARIZERS = ("clustering", "segmentation")
METRICS = ("der", "tcp-cer", "silence")
CORRECTED = "segmentation"  # what the LLM gets


def peer_steps(out: Path, limit: int, llm: Sequence[str]) -> Iterator[Step]:
    """Yield both cascades over each test set, and the correction of one of them."""
    tool = (sys.executable, "-m", "pipeline.baselines.cli")
    for test in TESTS:
        for diarizer in DIARIZERS:
            folder = peer(out, diarizer, test)
            command = (*tool, "run", str(out / "data" / test), str(folder), "--diarizer", diarizer)
            name = f"{diarizer} + Whisper base: {test}"
            yield Step(name, (*command, "--limit", str(limit)), folder / "done", seconds=5 * limit, after=())
        source, folder = peer(out, CORRECTED, test), peer(out, "corrected", test)
        correction = (*tool, "correct", str(source), str(folder), *llm)
        cascade = f"{CORRECTED} + Whisper base: {test}"
        yield Step(f"corrected: {test}", correction, folder / "done", seconds=5 * limit, after=(cascade,))


def peer(out: Path, system: str, test: str) -> Path:
    """Return the folder of a system's transcripts of a test set."""
    return out / "peers" / system / test


def own_folders(out: Path) -> tuple[list[Path], list[str]]:
    """Return the folders of the demo's own transcripts, and in words those that are not there."""
    found, missing = [], []
    for test in TESTS:
        own = {
            "SpeakerLM after stage 4 (make demo)": decoded(out, 4, test),
            "the reasoner after stage R3 (make reason)": out / "reason" / "decoded" / "stage13" / test,
        }
        for system, folder in own.items():
            if (folder / "done").exists():
                found.append(folder)
            else:
                missing.append(f"{system} on {test}: no {folder}")
    return found, missing


def main() -> None:
    """Run every step that has not run yet, score all systems, and print the table."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "demo", help="the demo's folder; results are in its peers/")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="folder for fetched packages")
    parser.add_argument("--limit", type=positive, default=24, help="clips of each test set (default: 24)")
    parser.add_argument("--llm", default="smollm2", help="that corrects: as of speakerlm-baseline correct")
    parser.add_argument("--llm-model", help="of an endpoint: the model's name there")
    args = parser.parse_args()
    out = args.out.resolve()
    if absent := [str(out / "data" / t) for t in TESTS if not (out / "data" / t / "dataset.json").exists()]:
        sys.exit(f"no packed test set {absent[0]}; run make demo first, or name its folder with --out")
    llm = ("--llm", args.llm, *(("--llm-model", args.llm_model) if args.llm_model else ()))
    steps = list(peer_steps(out, args.limit, llm))
    run_steps(steps, out / "peers" / "logs", args.cache, "python launch/peers.py")
    own, missing = own_folders(out)
    for line in missing:
        print(f"missing: {line}")
    folders = [*(step.proof.parent for step in steps), *own]
    try:
        publish_page(out, folders)
    except ConfigError as error:
        sys.exit(f"error: {error}")


def publish_page(out: Path, folders: Sequence[Path]) -> None:
    """Score all folders into `out`/peers, and print the table."""
    from pipeline.evaluation.score_decoded import dataset_audio, publish
    from pipeline.evaluation.scores import format_table

    rows = publish(
        folders, out / "peers", title="Other systems beside ours, on the demo's test sets", normaliser="mixed",
        audio=dataset_audio([str(out / "data" / test) for test in TESTS]), metrics=METRICS,
    )  # fmt: skip
    print("\n" + format_table(rows))
    print(f"Report: {out / 'peers' / 'report.html'}")


if __name__ == "__main__":
    main()
