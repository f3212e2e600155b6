"""Names under which speakers are registered.

With ``pools`` each sample draws its own names, so a name says nothing about a voice and the model must read the
embedding. With ``corpus`` a speaker keeps the corpus' id.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shards.errors import PlanError

_EN = """
Aaron Abigail Adam Adrian Agnes Aiden Alan Albert Alex Alice Allison Alma Amanda Amber Amelia Amy Andrea Andrew Angela
Anna Anthony April Arthur Ashley Audrey Austin Barbara Beatrice Benjamin Bernard Beth Betty Blake Bradley Brandon
Brenda Brian Bridget Bruce Bryan Caleb Calvin Cameron Carl Carmen Caroline Carter Catherine Cecilia Charles Charlotte
Chelsea Christian Christine Claire Clara Clarence Claudia Cody Colin Connor Cynthia Daisy Daniel Danielle David Dawn
Deborah Dennis Derek Diana Dominic Donald Donna Dorothy Douglas Duncan Dylan Edgar Edith Edward Eileen Elaine Eleanor
Elizabeth Ellen Emily Emma Eric Erica Ernest Esther Ethan Eugene Eva Evan Evelyn Felix Fiona Florence Frances Francis
Frank Gabriel Gavin George Gerald Gilbert Gloria Gordon Grace Graham Gregory Hannah Harold Harriet Harry Hazel Heather
Hector Helen Henry Holly Howard Hugo Ian Irene Iris Isaac Isabel Ivan Jack Jacob Jake James Jane Janet Jasmine Jason
Jean Jeffrey Jennifer Jeremy Jesse Jessica Joan Joel John Jonathan Jordan Joseph Josephine Joshua Joyce Judith Julia
Julian Justin Karen Katherine Keith Kelly Kenneth Kevin Kimberly Kyle Laura Lauren Lawrence Leah Leo Leonard Leslie
Lewis Lillian Linda Logan Louis Louise Lucas Lucy Luke Lydia Mabel Madeline Malcolm Margaret Maria Marion Mark Martha
Martin Marvin Mary Matilda Matthew Maurice Max Megan Melissa Michael Mike Mildred Miles Molly Monica Morgan Nancy
Naomi Natalie Nathan Neil Nicholas Nicole Noah Nora Norman Oliver Olivia Oscar Owen Pamela Patricia Patrick Paul Paula
Penelope Peter Philip Phoebe Rachel Ralph Raymond Rebecca Richard Robert Robin Roger Ronald Rosa Rose Roy Russell Ruth
Ryan Sabrina Samantha Samuel Sandra Sarah Scott Sean Sharon Shirley Simon Sophia Stanley Stella Stephen Steven Stuart
Susan Sylvia Teresa Theodore Thomas Timothy Tina Todd Tracy Tyler Ursula Valerie Vanessa Vera Vernon Veronica Victor
Victoria Vincent Violet Virginia Vivian Walter Wanda Wayne Wendy Wesley William Winifred Zachary Zoe
"""
# Common characters of given names; every pair reads as a name.
_ZH_FIRST = "晓志建文海明国永春秀丽美玉雪子俊嘉思雨欣"
_ZH_SECOND = "东华平军强杰伟峰芳兰英梅琳霞燕"

POOLS: dict[str, tuple[str, ...]] = {
    "en": tuple(dict.fromkeys(_EN.split())),
    "zh": tuple(a + b for a in _ZH_FIRST for b in _ZH_SECOND),
}
POOLS["tiny"] = POOLS["en"][::9]  # for models that are too small to know hundreds of names


def pool_names(rng: np.random.Generator, pools: Sequence[str], count: int) -> list[str]:
    """Distinct names from the union of pools.

    Raises:
        PlanError: a pool is unknown, or all pools together hold too few names.
    """
    unknown = sorted(set(pools) - set(POOLS))
    if unknown:
        raise PlanError(f"data.registration.name_pools: no pool {unknown[0]!r}; there are {', '.join(POOLS)}")
    names = [name for pool in dict.fromkeys(pools) for name in POOLS[pool]]
    if len(names) < count:
        raise PlanError(
            f"{count} distinct names wanted from the pools {', '.join(pools)}, which hold {len(names)}; add a pool to "
            "data.registration.name_pools or lower data.registration.max_distractors; in decoding, lower --n-ov"
        )
    return [names[i] for i in rng.choice(len(names), count, replace=False)]


def corpus_names(speakers: Sequence[str]) -> list[str]:
    """A name per speaker id: its last part, or all of it where two last parts are the same. Never holds a colon."""
    short = [s.rsplit(":", 1)[-1] for s in speakers]
    return [
        name if short.count(name) == 1 else speaker.replace(":", "_")
        for speaker, name in zip(speakers, short, strict=True)
    ]
