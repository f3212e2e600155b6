"""Draw the terms of a prompt's line of context: some of the sample's own text, and distractors."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.data.keyed_random import keyed_rng, keyed_uniform
from pipeline.recipe.schema import ContextConfig


def draw_context(
    own: Sequence[str], others: Sequence[str], config: ContextConfig, key: tuple[object, ...]
) -> tuple[str, ...]:
    """Draw a line of context, in random order. Empty: the prompt has no such line.

    A share of the samples gets 0 to ``max_terms`` terms of its own text, so that a line is neither complete nor always
    of use, and 0 to ``max_distractors`` of other samples' texts, so that a term that is named need not be said.

    Args:
        own: terms of the sample's text.
        others: terms of other samples; the sample's own among them are no distractors.
        config: share and numbers.
        key: key of the draw.
    """
    if keyed_uniform(*key, "context") >= config.share:
        return ()
    rng = keyed_rng(*key, "context terms")
    own = list(dict.fromkeys(own))
    wanted, extra = int(rng.integers(config.max_terms + 1)), int(rng.integers(config.max_distractors + 1))
    chosen = [own[i] for i in rng.permutation(len(own))[:wanted].tolist()]
    known = set(own)
    if others and extra:
        # As many draws as may be lost to the sample's own terms or to repetition are not worth a permutation of all.
        drawn = (others[i] for i in rng.integers(len(others), size=2 * extra).tolist())
        chosen += list(dict.fromkeys(term for term in drawn if term not in known))[:extra]
    return tuple(chosen[i] for i in rng.permutation(len(chosen)).tolist())
