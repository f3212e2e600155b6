"""The limit on speaker vectors that are made from the sample's own speech.

Such a vector gives the answer away: it is no enrolment. A few are unavoidable, for speakers who speak only once. Many
of them mean that the enrolment manifests name their speakers otherwise, and then the run stops with ids of both sides.
The exact share is known, and compared, when all parts are finished. Before that a run stops at twice the share, after
:data:`EARLY` vectors, so that a large corpus need not be packed to the end first.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from shards.errors import DataError

if TYPE_CHECKING:
    from shards.voices.enrolment import Enroller

EARLY = 1000  # vectors: with fewer, chance could double a share of 5 %
SHOWN = 5  # speaker ids of each side in a message


def exceeds_early(own: int, vectors: int, share: float) -> bool:
    """Return whether the vectors so far show that more than `share` of all will be of the sample's own speech."""
    return vectors >= EARLY and own > 2 * share * vectors


def self_enrolled_error(
    own: int, vectors: int, share: float, enroller: Enroller | None, speakers: Iterable[str]
) -> DataError:
    """Return the error that names speakers of both sides.

    Args:
        enroller: knows the speakers of the enrolment manifests.
        speakers: ids of the packed samples, with or without repetitions.
    """
    heard = [] if enroller is None else enroller.heard()
    others = set(heard)
    without = list(islice(dict.fromkeys(s for s in speakers if s not in others), SHOWN))
    if without:
        reason = f"speakers without enrolment speech: {', '.join(without)} …; " + (
            f"the enrolment manifests have speech of {', '.join(heard[:SHOWN])} …; give one voice the same id in both "
            "(prepare --name), or the same person in both speakers.jsonl, or name other manifests by --enrol"
            if heard
            else "the enrolment manifests have no speech of a single known speaker; name others by --enrol"
        )
    else:
        reason = "the enrolment manifests have no other speech of these speakers; name further ones by --enrol"
    return DataError(
        f"{own} of {vectors} speaker vectors are made from the sample's own speech, {share:.3g} of them are allowed: "
        f"{reason}. To use such vectors all the same, raise --max-self-enrolled"
    )
