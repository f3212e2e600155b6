"""The demo's chain with more voices, longer conversations and more training: `make learn`, ≤ 90 minutes on two cores.

Ten real voices and four pseudo-speakers of each (the same recordings at other speeds). Two voices, and takes of others,
are kept from training; each step is a command with its log in DIR/logs, and a second `make learn` continues where the
first one stopped. Test sets, each of conversations that are not in training:

========================== ===========================================================================================
``test-simulated``         of recordings heard in training
``test-harder``            the same with rooms and noise
``test-same-language``     as the first; all speakers of a conversation speak one language
``test-withheld-takes``    of takes (word × voice) withheld at every speed; another voice of the language says the word
``test-second-takes``      of three words that two voices recorded twice; the second take is withheld
``test-new-voices``        of two voices withheld at every speed, enrolled by their own prompts
========================== ===========================================================================================
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import conversation_sets
from chain import SMOKE as SMOKE_TRAINING
from chain import (
    Training,
    pack_step,
    report,
    seed_folder,
    shards_cli,
    speech_step,
    training_steps,
)
from conversation_sets import TRAIN, ConversationSet, DataSize, Style, standard_sets
from seeds import medians, targets
from shards.commands.parser import Parser
from shards.weights.fetch import cache_folder
from steps import ROOT, Step, run_steps

SECOND_TAKES = ("it-carlo-digits_oh", "it-carlo-phonetic_9_p", "ru-ivrvoice-digits_2n")  # zero, nove, два
NEW_VOICES = ("fr-armelle-*", "zh-gcin5-*")  # French and Mandarin keep a voice in training
WITHHELD_TAKES = (  # two words of each voice of the languages that keep two; the other voice says them in training
    "it-carlo-digit[25]",
    "it-menardi-digit[37]",
    "es-allison-digit[48]",
    "es-co-digit[16]",
)

TRAINING = Training(  # the numbers that decide how long it takes and how well it learns
    encoder_steps=2000,
    llm_steps=5000,
    llm_turns=6,
    llm_words=4,
    llm_no_share=0.5,  # numbering unregistered speakers takes longest to learn; the stages draw the same
    tests=("test-simulated", "test-harder"),
    last_tests=("test-same-language", "test-withheld-takes", "test-second-takes", "test-new-voices"),
    n_ov="1-10",
    max_new_tokens=96,
    overrides=(
        "data.registration.max_distractors=9",
        "data.registration.mode_shares.no=2",
        "trainer.validate_every=200",
        "trainer.save_every=100",
    ),
    recipes="learn",
)


@dataclass(frozen=True)
class Size(DataSize):
    """Sizes of datasets and training."""

    speeds: tuple[str, ...] = ("0.76", "0.87", "1.15", "1.32")  # neighbours are as far apart as persons may be alike
    asr: int = 6000  # single-speaker utterances, stage 1
    simulated: int = 12000  # conversations, stages 2 and 4
    harder: int = 5000  # the same with rooms and noise, stages 3 and 4
    test: int = 64  # conversations in each test set
    turns: str = "3-6"
    words: str = "1-4"  # a turn
    seconds: str = "20-20"  # at most
    training: Training = TRAINING


SMOKE = Size(
    speeds=("0.87", "1.15"),
    asr=48,
    simulated=32,
    harder=32,
    test=6,
    samples_per_shard=16,
    workers=1,
    training=replace(SMOKE_TRAINING, last_tests=("test-second-takes", "test-new-voices"), n_ov="1-10"),
)


def voice_steps(speech: Path, size: Size, cache: Path) -> Iterator[Step]:
    """Recordings by what training may hear: `train`, and withheld: `takes`, `second`, `new`. With pseudo-speakers."""
    yield speech_step(speech, cache)
    withheld = (*WITHHELD_TAKES, *NEW_VOICES)
    chosen = {
        "train/digits": ("digits", (), withheld),
        "train/prompts": ("prompts", (), (*SECOND_TAKES, *NEW_VOICES)),
        "takes/digits": ("digits", WITHHELD_TAKES, ()),
        "second/digits": ("prompts", SECOND_TAKES, ()),
        "new/digits": ("digits", NEW_VOICES, ()),
        "new/prompts": ("prompts", NEW_VOICES, ()),
    }
    for name, (manifest, only, without) in chosen.items():
        yield Step(
            f"voices {name.replace('/', ' ')}",
            (*shards_cli(), "pseudo-speakers", str(speech / manifest), str(speech / name), "--speeds", *size.speeds)
            + (("--only", *only) if only else ())
            + (("--without", *without) if without else ())
            + ("--workers", str(size.workers)),
            speech / name / "audit.json",
        )


def set_steps(out: Path, size: Size, made: Sequence[Step]) -> Iterator[Step]:
    """Conversations, simulated and packed; the steps ``made`` make their recordings."""
    data, speech = out / "data", out / "data" / "speech"
    prompts = speech / "train" / "prompts"
    style = Style(size.seconds, alone_words="1-6", turns=size.turns, words=size.words)
    sets = standard_sets(size, style, (11, 91), [speech / "train" / "digits"], prompts)
    more = {
        "test-same-language": (94, (*style.several, "--same-language"), "train"),
        "test-withheld-takes": (95, style.several, "takes"),
        "test-second-takes": (96, style.several, "second"),
        "test-new-voices": (97, style.several, "new"),
    }
    for name, (seed, options, voices) in more.items():
        enrol = (prompts, speech / "new" / "prompts") if voices == "new" else (prompts,)
        sets[name] = ConversationSet(size.test, seed, options, (speech / voices / "digits",), enrol)
    yield from conversation_sets.set_steps(data, size, sets, [s.name for s in made])


def leak_steps(out: Path, size: Size) -> Iterator[Step]:
    """`speakerlm-shards overlap` of every test set with every training set, and of the takes that they are made of.

    A take's session is its recording, at whatever speed, so takes that share none share no version of a recording.
    New voices may share nothing at all; the other sets share speakers with training, by intention.
    """
    data, speech = out / "data", out / "data" / "speech"
    for voices in ("train", "takes", "second", "new"):
        yield pack_step(speech / voices / "digits", data / "takes" / voices, 1, size.workers, 1000, [])
    yield pack_step(speech / "train" / "prompts", data / "takes" / "enrolment", 1, size.workers, 1000, [])
    pairs = [("takes/train", f"takes/{v}", v == "new") for v in ("takes", "second", "new")]
    pairs += [("takes/enrolment", f"takes/{v}", v == "new") for v in ("takes", "second", "new")]
    tests = ("test-asr", *size.training.tests, *size.training.last_tests)
    pairs += [(train, test, test == "test-new-voices") for train in TRAIN for test in tests]
    for train, test, strict in pairs:
        names = f"{train} and {test}".replace("/", "-")
        yield Step(
            f"leaks between {names}",
            (
                *shards_cli(),
                "overlap",
                str(data / train),
                str(data / test),
                *(() if strict else ("--allow", "speaker")),
            ),
            out / "leaks" / f"{names.replace(' ', '-')}.txt",
            "the log names what training and test data share",
            prints_proof=True,
        )


def main() -> None:
    """Run every step that has not run yet, for each seed; then print tables and targets."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, default=ROOT / "learn", help="folder for data, models, runs, report")
    add("--cache", type=Path, default=cache_folder(), help="folder for fetched packages")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", type=int, default=1, help="trainings with different seeds on the same data")
    seeds.add_argument("--seed", type=int, help="only the training with this seed, in OUT/seedN (1: OUT itself)")
    add("--data-only", action="store_true", help="make the data and check it for leaks, train nothing")
    add("--smoke", action="store_true", help="a few minutes: every step, almost no training")
    args = parser.parse_args()
    size, data = SMOKE if args.smoke else Size(), args.out.resolve()
    start = time.monotonic()
    voices = list(voice_steps(data / "data" / "speech", size, args.cache))
    steps = [*voices, *set_steps(data, size, voices), *leak_steps(data, size)]
    run_steps(steps, data / "logs", args.cache, "make learn")
    if args.data_only:
        return
    folders = []
    for seed in [args.seed] if args.seed is not None else range(1, args.seeds + 1):
        how = replace(size.training, seed=seed)
        out = seed_folder(data, None if seed == 1 else seed)
        run_steps(training_steps(out, how), out / "logs", args.cache, "make learn")
        rows = report(out, how, f"SpeakerLM-tiny on real and pseudo-speakers, seed {seed}")
        print("\n" + targets(rows, how.tests))
        folders.append(out)
    if len(folders) > 1:
        print("\n" + medians(folders, data / "seeds.json", how.tests))
    print(f"\n{time.monotonic() - start:.0f} s in all. Scores and reports: {', '.join(map(str, folders))}")


if __name__ == "__main__":
    main()
