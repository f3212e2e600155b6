"""Plan identity and its diff."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple
from typing import Any

from pipeline.data.dataset_stream import Stream
from pipeline.data.index_rows import PlanSource
from pipeline.data.planned import PlanSettings
from shards.errors import PlanError

# These decide which samples are in an epoch, and with whom: other distractors make other micro-batches.
_CONTENT = {"fingerprint": "its shards", "bank": "its speaker bank", "hours": "hours", "exclude": "exclude list"}
ABSENT = {"model.encoder.frame_multiple": 1}  # what settings were before they existed
_SHARE = {"weight": "weight", "epochs": "epochs"}  # these decide how often the dataset is drawn


def identity(sources: Sequence[PlanSource], streams: Sequence[Stream], settings: PlanSettings) -> dict[str, Any]:
    """Everything that must be equal for a saved position to be valid, under the name that an error gives."""
    data = settings.data
    recipe = {
        "data.micro_batches_per_step": data.micro_batches_per_step,
        "data.max_positions": data.max_positions,
        "data.max_frames": data.max_frames,
        "data.window_shards": data.window_shards,
        "data.registration": asdict(data.registration) | {"mode_shares": list(astuple(data.registration.mode_shares))},
        "data.augment": asdict(data.augment) | {"noise": settings.noise},
        "data.curriculum": [asdict(p) for p in data.curriculum],
        "data.align_epochs": data.align_epochs,
        "data.speaker_questions": data.speaker_questions,
        "registration of the stage": settings.registration,
        "model.projector.stride": settings.stride,
        "model.encoder.frame_multiple": settings.frame_multiple,
        "tokenizer or chat template": settings.tokenizer,
        "epochs": settings.epochs,
        "modes": [str(m) for m in settings.modes] if settings.modes else None,
        "distractors": settings.n_ov,
    }
    if data.context.share:
        recipe["data.context"] = asdict(data.context)
    if data.temperature is not None:
        recipe["data.temperature"] = data.temperature
    if settings.tasks:
        recipe["data.dialogue"] = asdict(data.dialogue)
        recipe["data.encoder_calls"] = data.encoder_calls
        recipe["tasks of the stage"] = [str(t) for t in settings.tasks]
    datasets = [
        {
            "name": source.name,
            "fingerprint": source.fingerprint,
            "bank": source.bank.fingerprint if source.bank is not None and settings.registration else None,
            "weight": stream.share.weight,
            "epochs": stream.share.epochs,
            "hours": stream.share.hours,
            "exclude": _hash(sorted(stream.selection.exclude)),
        }
        for source, stream in zip(sources, streams, strict=True)
    ]
    return {"seed": settings.seed, "recipe": recipe, "datasets": datasets}


def recipe_differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Describe each change of seed or recipe."""
    if old["seed"] != new["seed"]:
        yield f"seed was {old['seed']}, is {new['seed']}"
    for name in sorted(old["recipe"].keys() | new["recipe"].keys()):
        before, after = (settings["recipe"].get(name, ABSENT.get(name)) for settings in (old, new))
        if before != after:
            yield f"{name} was {before}, is {after}"


def dataset_differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Describe each change of the datasets."""
    if [d["name"] for d in old["datasets"]] != [d["name"] for d in new["datasets"]]:
        yield f"datasets were {[d['name'] for d in old['datasets']]}, are {[d['name'] for d in new['datasets']]}"
        return
    for before, after in zip(old["datasets"], new["datasets"], strict=True):
        yield from _changes(before, after, _CONTENT | _SHARE)


def check_same(identities: Sequence[dict[str, Any]]) -> None:
    """Check that all ranks have the same plan: otherwise samples would be skipped, or trained on twice.

    Raises:
        PlanError: a rank's identity differs from rank 0's.
    """
    first = identities[0]
    for rank, other in enumerate(identities):
        if other != first:
            differences = [*recipe_differences(first, other), *dataset_differences(first, other)]
            raise PlanError(
                f"rank {rank} sees other data than rank 0: {'; '.join(differences)}. Give every node the same files, "
                "and start when no process writes to them"
            )


def matched_places(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any] | None]:
    """Saved position of each of the new datasets, found by name; None: it is new.

    Raises:
        PlanError: a dataset that changed or was removed is within an epoch: some of its samples would be skipped, or
            come twice.
    """
    places: list[dict[str, Any] | None] = []
    left = list(zip(old["datasets"], old["streams"], strict=True))
    for dataset in new["datasets"]:
        found = next((pair for pair in left if pair[0]["name"] == dataset["name"]), None)
        if found is None:
            places.append(None)
            continue
        left.remove(found)
        _require_boundary(found[0]["name"], "; ".join(_changes(found[0], dataset, _CONTENT)), found[1])
        places.append(found[1])
    for before, place in left:
        _require_boundary(before["name"], f"dataset {before['name']} was removed", place)
    return places


def _require_boundary(name: str, change: str, place: dict[str, Any]) -> None:
    if change and (place["window"] or place["position"]):
        raise PlanError(
            f"{change}; but the saved position is within epoch {place['epoch'] + 1} of {name}, at window "
            f"{place['window'] + 1}, and a dataset can change between two epochs only. Continue with the old one to "
            "the end of its epoch: with data.align_epochs a checkpoint is saved there"
        )


def _changes(before: dict[str, Any], after: dict[str, Any], names: dict[str, str]) -> Iterator[str]:
    for name, what in names.items():
        if name in before and before[name] != after[name]:  # states of earlier versions lack the bank
            yield f"dataset {before['name']}: {what} changed ({before[name]} → {after[name]})"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
