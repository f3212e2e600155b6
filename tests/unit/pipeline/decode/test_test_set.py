"""Decoding a packed test set with a finished run: registration, output, continuing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pipeline.decode.transformers_engine
from pipeline.decode.jobs import DecodeJob, jobs_of
from pipeline.decode.test_set import DecodeOptions, decode, main, prompt_of
from pipeline.evaluation.scores import score_decoded
from pipeline.prompts import Mode, prompt_pieces
from pipeline.recipe.load import load_recipe
from shards.dataset.dataset import open_dataset
from shards.dataset.writer import write_dataset_json, write_shard
from shards.errors import CheckpointError, DataError, ScoreError
from shards.storage.local import LocalStorage
from tests.support.datasets import make_dataset, make_sample
from tests.support.decoding import decode_with
from tests.support.training import DIM, finished_run, make_parts


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and a run that has finished without learning anything."""
    folder = tmp_path_factory.mktemp("parts")
    make_parts(folder)
    make_dataset(folder / "test", samples=5, speakers_per_sample=(2, 3), dim=DIM, seed=9)
    finished_run(folder)
    return folder


def rows(path: Path) -> dict[str, dict]:
    return {r["key"]: r for r in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


def run(parts: Path, out: Path, **options):
    settings = {"n_ov": "2-4", "batch": 2, "max_new_tokens": 6, **options}
    return decode_with(parts / "run", parts / "test", out, **settings)


@pytest.fixture(scope="module")
def decoded(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("decoded")
    run(parts, out, modes="asr,no,match,over")
    return out


def test_every_clip_is_decoded_once_in_every_mode(decoded: Path):
    assert {p.name for p in decoded.iterdir()} == {
        "asr.jsonl", "no.jsonl", "match.jsonl", "over.jsonl", "decode.json", "done",
    }  # fmt: skip
    assert all(len(rows(decoded / f"{m}.jsonl")) == 5 for m in ("asr", "no", "match", "over"))


def test_registration_and_reference_follow_the_mode(decoded: Path):
    for mode in ("asr", "no", "match", "over"):
        for row in rows(decoded / f"{mode}.jsonl").values():
            speakers = list(dict.fromkeys(s["speaker"] for s in row["reference"]))
            if mode == "asr":
                assert (speakers, row["names"], row["n_ov"]) == ([None], [], None)
            elif mode == "no":
                assert (speakers, row["names"]) == ([f"spk{i}" for i in range(len(speakers))], [])
            else:
                assert set(speakers) == set(row["name_of"].values()) <= set(row["names"])
                extra = len(row["names"]) - len(speakers)
                assert extra == (row["n_ov"] or 0)
                assert extra == 0 if mode == "match" else 2 <= extra <= 4
            starts = [s["start"] for s in row["reference"]]
            assert starts == sorted(starts)
            assert all(s["text"] for s in row["reference"])


def test_registration_is_a_function_of_seed_and_key(parts: Path, decoded: Path, tmp_path: Path):
    run(parts, tmp_path / "same", modes="over", batch=5)
    run(parts, tmp_path / "other", modes="over", seed=2)
    first, same = rows(decoded / "over.jsonl"), rows(tmp_path / "same" / "over.jsonl")
    other = rows(tmp_path / "other" / "over.jsonl")
    assert {k: r["names"] for k, r in first.items()} == {k: r["names"] for k, r in same.items()}
    assert {k: r["names"] for k, r in first.items()} != {k: r["names"] for k, r in other.items()}


def test_any_number_of_ranks_writes_the_same_bytes(parts: Path, decoded: Path, tmp_path: Path):
    shares = [run(parts, tmp_path, modes="asr,no,match,over", rank=r, world=3) for r in (2, 0, 1)]
    assert shares[:2] == [None, None]
    assert {name: t.clips for name, t in shares[2].items()} == dict.fromkeys(("asr", "no", "match", "over"), 5)
    for mode in ("asr", "no", "match", "over"):
        assert (tmp_path / f"{mode}.jsonl").read_bytes() == (decoded / f"{mode}.jsonl").read_bytes()
    assert not (tmp_path / "parts").exists()


def test_interrupted_decoding_continues(parts: Path, decoded: Path, tmp_path: Path, monkeypatch):
    """A rank dies in its second batch and leaves half a line; another number of ranks continues."""
    asked: list[int] = []
    real = pipeline.decode.transformers_engine.ask

    def ask(model, tokenizer, prompts, guards, **options):
        asked.append(len(prompts))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(model, tokenizer, prompts, guards, **options)

    monkeypatch.setattr(pipeline.decode.transformers_engine, "ask", ask)
    with pytest.raises(KeyboardInterrupt):
        run(parts, tmp_path, modes="no")
    assert not (tmp_path / "no.jsonl").exists()
    part = tmp_path / "parts" / "no.0-of-1.jsonl"
    assert len(part.read_text().splitlines()) == 2
    with part.open("a") as f:
        f.write('{"key": "half a li')
    assert run(parts, tmp_path, modes="no", rank=0, world=2) is None
    timing = run(parts, tmp_path, modes="no", rank=1, world=2)
    assert (tmp_path / "no.jsonl").read_bytes() == (decoded / "no.jsonl").read_bytes()
    assert asked == [2, 2, 1, 2]  # three batches, dealt to two ranks; the first is not decoded again
    assert timing["no"].clips == 5
    assert (tmp_path / "done").exists()


def test_batch_with_a_missing_clip_is_decoded_whole(parts: Path, decoded: Path, tmp_path: Path):
    run(parts, tmp_path, modes="no")
    lines = (tmp_path / "no.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "no.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:30])
    assert run(parts, tmp_path, modes="no")["no"].clips == 3  # one of a pair, and the single one
    assert (tmp_path / "no.jsonl").read_bytes() == (decoded / "no.jsonl").read_bytes()


def test_another_mode_is_added_to_a_folder(parts: Path, decoded: Path, tmp_path: Path):
    run(parts, tmp_path, modes="no")
    timings = run(parts, tmp_path, modes="asr")
    assert {p.name for p in tmp_path.glob("*.jsonl")} == {"no.jsonl", "asr.jsonl"}
    assert {name: t.clips for name, t in timings.items()} == {"no": 5, "asr": 5}
    assert all(t.peak_bytes > 2**20 and t.wall_seconds > 0 for t in timings.values())


def test_another_range_of_distractors_is_refused(parts: Path, tmp_path: Path):
    run(parts, tmp_path, modes="over", n_ov="1-2")
    run(parts, tmp_path, modes="no,over", n_ov="1-2")
    with pytest.raises(ScoreError, match="holds over with 1-2 distractors, not 2-3"):
        run(parts, tmp_path, modes="over", n_ov="2-3")
    assert [job.name for job in jobs_of("over", "1-10, 10-20")] == ["over-1-10", "over-10-20"]


def test_stop_reason_of_an_answer_is_stored(decoded: Path):
    """An untrained model writes no end-of-text token."""
    found = rows(decoded / "no.jsonl").values()
    assert {r["stop"] for r in found} <= {"end", "limit"}
    assert all(r["tokens"] == 6 for r in found if r["stop"] == "limit")


def test_folder_that_cannot_be_created_is_reported(parts: Path):
    with pytest.raises(ScoreError, match=r"/proc/nowhere/out: .*name a folder that can be written"):
        decode(parts / "run", str(parts / "data"), Path("/proc/nowhere/out"), DecodeOptions(modes="no"))


def test_output_of_other_settings_is_refused(parts: Path, tmp_path: Path):
    run(parts, tmp_path, modes="no")
    with pytest.raises(ScoreError, match="another seed"):
        run(parts, tmp_path, modes="no", seed=2)
    (tmp_path / "decode.json").unlink()
    with pytest.raises(ScoreError, match=r"no decode\.json"):
        run(parts, tmp_path, modes="no")


def test_rows_of_a_rounded_model_have_a_name_of_their_own(parts: Path, tmp_path: Path):
    run(parts, tmp_path / "out", modes="no", limit=1, quantize="int8", device="cpu")
    (row,) = score_decoded(tmp_path / "out")
    assert row["run"] == "tiny-test (int8)"


def test_decoded_clips_are_scored(decoded: Path):
    found = score_decoded(decoded)
    assert [r["mode"] for r in found] == ["asr", "no", "match", "over"]
    assert {(r["run"], r["stage"], r["test_set"], r["unit"]) for r in found} == {("tiny-test", 4, "synthetic", "clip")}
    assert found[0]["cpcer"] is None
    assert found[1]["sacer"] is None
    assert found[2]["sacer"] is not None
    assert found[3]["n_ov"] is not None
    assert len({r["n_ref"] for r in found}) == 1


def test_several_ranges_write_one_file_each(parts: Path, tmp_path: Path):
    run(parts, tmp_path, modes="over", n_ov="1-1,2-2", limit=2)
    assert {r["n_ov"] for r in rows(tmp_path / "over-1-1.jsonl").values()} == {1}
    assert {r["n_ov"] for r in rows(tmp_path / "over-2-2.jsonl").values()} == {2}
    assert [r["n_ov"] for r in score_decoded(tmp_path)] == ["1-1", "2-2"]


def test_vectors_of_another_extractor_are_refused(parts: Path, tmp_path: Path):
    info = json.loads((parts / "test" / "dataset.json").read_text())
    info["provenance"]["extractor"] = "other"
    kept = (parts / "test" / "dataset.json").read_bytes()
    (parts / "test" / "dataset.json").write_text(json.dumps(info))
    try:
        with pytest.raises(DataError, match="pack the test set with that extractor"):
            run(parts, tmp_path, modes="match")
    finally:
        (parts / "test" / "dataset.json").write_bytes(kept)


def test_a_run_that_has_not_finished_is_refused(parts: Path, tmp_path: Path):
    with pytest.raises(CheckpointError):
        decode(tmp_path, str(parts / "test"), tmp_path / "out")
    assert main([str(tmp_path), str(parts / "test"), str(tmp_path / "out")]) == 1


def test_permuted_prompt_differs_only_in_the_order_of_vectors(
    parts: Path, decoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shown: list[list[np.ndarray]] = []
    real = pipeline.decode.transformers_engine.ask

    def listen(model, tokenizer, prompts, guards, **options):
        shown.append([p.vectors for p in prompts])
        return real(model, tokenizer, prompts, guards, **options)

    monkeypatch.setattr(pipeline.decode.transformers_engine, "ask", listen)
    run(parts, tmp_path / "true", modes="match")
    true, shown = [v for batch in shown for v in batch], []
    run(parts, tmp_path / "control", modes="match", permute_vectors=True)
    control = [v for batch in shown for v in batch]
    for a, b in zip(true, control, strict=True):
        assert not any((x == y).all() for x, y in zip(a, b, strict=True))
        assert np.array_equal(a, np.roll(b, 1, axis=0))
    first, second = rows(tmp_path / "true" / "match.jsonl"), rows(tmp_path / "control" / "match.jsonl")
    for key, row in first.items():
        assert (row["names"], row["reference"]) == (second[key]["names"], second[key]["reference"])
    assert [r["test_set"] for r in score_decoded(tmp_path / "control", replicates=0)] == [
        "synthetic (vectors permuted)"
    ]
    with pytest.raises(ScoreError):
        run(parts, tmp_path / "true", modes="match", permute_vectors=True)


def test_clip_without_speech_is_prompted_without_registration(parts: Path, tmp_path: Path):
    """Match has no one to register then; Over still has its distractors."""
    sample = make_sample(0, np.random.default_rng(0), ["synthetic:S000"], None, (1, 1))
    silent = replace(sample, segments=()).with_embeddings(np.zeros((0, DIM), np.float16))
    make_dataset(tmp_path / "test", samples=1, speakers_per_sample=(1, 1), dim=DIM)
    storage = LocalStorage(tmp_path / "test")
    info = write_shard(storage, "synthetic-000001", [silent])
    provenance = {"extractor": "random", "extractor_sha256": None, "extractor_dim": DIM, "seed": 0}
    write_dataset_json(storage, "synthetic", [info], provenance)
    options = DecodeOptions(modes="match,over", n_ov="3-3", max_new_tokens=4)
    decode(parts / "run", str(tmp_path / "test"), tmp_path / "out", options)
    (match,), (over,) = (rows(tmp_path / "out" / f"{m}.jsonl").values() for m in ("match", "over"))
    assert (match["mode"], match["names"], match["reference"], match["name_of"]) == ("match", [], [], {})
    assert (len(over["names"]), over["n_ov"], over["reference"]) == (3, 3, [])
    dataset, recipe = open_dataset(tmp_path / "test"), load_recipe(parts / "run" / "config.yaml")
    _, prompt = prompt_of(dataset, 0, 0, DecodeJob("match", None, "match"), 1, recipe)
    assert (prompt.pieces, prompt.vectors) == (tuple(prompt_pieces(Mode.NO)), None)
