"""Write ``v0.1.tar.xz``: one small file of every kind that commit 22def17 wrote, and the figures it computed from them.

Run it with that commit's code; its modules have other names today, so they are imported by name:

    git worktree add /tmp/v0.1 22def17
    (cd /tmp/v0.1 && PYTHONPATH=. python PATH/TO/make_v0_1.py PATH/TO/v0.1.tar.xz)

========================  ==========================================================================================
``data``                  packed dataset of ten recordings with a speaker bank and token lengths
``base``                  public checkpoints: a SenseVoice encoder, a Qwen2 LLM with its tokenizer
``stage3``, ``stage4``    finished runs of two and of four steps
``stage4-stopped``        the same stage 4, stopped after step 2: a checkpoint
``export``                stage 4 as a Hugging Face folder
``decoded``               stage 4's answers for ``data``; their ``scores.json``
``edited``                the same with references that miss characters as answers; their ``scores.json``
``expected.json``         fingerprints, sample keys of steps 1 to 4, losses, logits
========================  ==========================================================================================

Paths in recipes are relative to the archive's folder.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

TEXTS = ("今天下午开会", "你好", "我们先讨论第一个问题", "good morning everyone", "可以的没有问题", "好")
KEPT = ("data", "base", "stage3", "stage4", "stage4-stopped", "export", "decoded", "edited", "expected.json")
RATE, DIM = 16_000, 8


def tone(samples: int) -> np.ndarray:
    """Half an octave of a sine, (samples,) float32."""
    return (0.1 * np.sin(2 * np.pi * np.linspace(200, 300, samples) * np.arange(samples) / RATE)).astype(np.float32)


def speak(folder: Path) -> None:
    """Ten recordings of one or two voices; a voice is a tone."""
    manifests, sample = import_module("shards.manifests"), import_module("shards.sample")
    rng, records = np.random.default_rng(0), []
    folder.mkdir()
    for number in range(10):
        voices = (number % 4, (number + 1) % 4)[: 1 + number % 2]
        length = 0.6 + 0.04 * number
        each, time = length / len(voices), np.arange(round(length * RATE)) / RATE
        pitches = np.array([220.0 + 400 * v for v in voices])[np.minimum(time // each, len(voices) - 1).astype(int)]
        wave = 0.3 * np.sin(2 * np.pi * pitches * time) + 0.0005 * rng.standard_normal(len(time))
        path = folder / f"{number}.flac"
        soundfile.write(path, wave, RATE, subtype="PCM_16")
        segments = tuple(
            sample.Segment(f"toy:S{v}", round(i * each, 3), round((i + 1) * each, 3), TEXTS[(number + i) % len(TEXTS)])
            for i, v in enumerate(voices)
        )
        where = (f"toy-{number}", "toy", "train", f"session-{number // 3}", "zh", str(path.absolute()))
        records.append(manifests.Recording(*where, segments, duration=length))
    speakers = [manifests.SpeakerInfo(f"toy:S{i}", "toy", "zh", None, f"person-{i}") for i in range(4)]
    manifests.write_manifest(folder, records, speakers, {"clip_rule": "none", "normaliser": "none"})


def pack() -> None:
    """Pack the recordings with a speaker bank."""
    enrolment, speech = import_module("shards.enrolment"), import_module("tests.support.speech")
    enrolment.load_extractor = lambda name: speech.PitchExtractor()
    main = import_module("shards.cli").main
    options = ["--name", "toy", "--samples-per-shard", "4", "--extractor", "pitch"]
    assert main(["pack", "speech", "data", *options]) == 0
    assert main(["verify", "data"]) == 0


def recipe(stage: int, output: str, steps: int) -> Any:
    """A recipe whose paths are relative."""
    config = import_module("pipeline.config")
    share = config.DatasetConfig(path="data")
    return config.Recipe(
        name="v0.1",
        stage=stage,
        output=output,
        init_from=f"stage{stage - 1}" if stage > 1 else None,
        deepspeed="tests/support/zero3_gathers.json",
        model=config.ModelConfig(
            encoder=config.EncoderConfig(checkpoint="./base/encoder", dropout=0.0),
            projector=config.ProjectorConfig(layers=1, heads=2, ffn=24, dropout=0.0),
            llm=config.LlmConfig(checkpoint="./base/llm"),
            lora=config.LoraConfig(r=2, alpha=4, dropout=0.0),
            speaker_dim=DIM,
            extractor="pitch",
        ),
        data=config.DataConfig(
            train=[share],
            validation=[share],
            registration=config.RegistrationConfig(max_distractors=2),
            micro_batches_per_step=2,
            max_positions=300,
            max_frames=120,
            workers=0,
        ),
        optimizer=config.OptimizerConfig(start_lr=1e-4, peak_lr=1e-3, final_lr=1e-4, warmup_steps=2),
        trainer=config.TrainerConfig(max_steps=steps, log_every=1, validation_batches=2, timeout_seconds=60.0),
    )


def train() -> dict[str, Any]:
    """Four stages, and stage 4 again up to its second step."""
    start, engine, build = (import_module(f"pipeline.{m}") for m in ("start", "engine", "model.build"))
    for stage in (1, 2, 3, 4):
        assert start.run_stage(recipe(stage, f"stage{stage}", 4 if stage == 4 else 2)) == 0
    assert start.run_stage(recipe(4, "stage4-stopped", 4), 2) == 0
    last = recipe(4, "stage4", 4)
    data = import_module("pipeline.stage_data").StageData(
        last, engine.init_distributed(60), build.load_tokenizer(last.model)
    )
    steps = data.train(None)
    keys = [[list(b.keys) for b in next(steps).micro_batches] for _ in range(4)]
    log = [json.loads(line) for line in Path("stage4/train.jsonl").read_text().splitlines()]
    return {"keys": keys, "losses": [r["loss"] for r in log]}


def export() -> dict[str, Any]:
    """Export stage 4; what the run itself computes and generates."""
    import torch

    import_module("pipeline.export.folder").export(Path("stage4"), Path("export"))
    build, packed = import_module("pipeline.model.build"), import_module("tests.support.packed")
    packed.DIM = DIM
    mode = import_module("pipeline.prompts").Mode
    model, tokenizer, _ = build.load_finished_run(Path("stage4"))
    example = packed.example(mode.MATCH, ("Mike", "Lucy"), "Mike: hi\nLucy: fine", 12000, seed=1)
    example = replace(example, waveform=torch.tensor(tone(12000)))
    batch = packed.pack([example], tokenizer)
    names = ("waveforms", "waveform_lengths", "input_ids", "audio_index", "speaker_vectors", "speaker_index")
    with torch.no_grad():
        embeds = model.eval().embed(**{n: batch[n] for n in names})
        logits = model.llm(inputs_embeds=embeds[None], use_cache=False).logits[0, -1]
    return {
        "inputs": {n: batch[n].tolist() for n in names if n != "waveforms"},
        "logits": logits.tolist(),
    }


def decode() -> None:
    """Decode ``data``; a second folder in which answers are close to the references."""
    main = import_module("pipeline.evaluation.generate").main
    assert (
        main(["stage4", "data", "decoded", "--modes", "asr,no,match,over", "--n-ov", "1-2", "--max-new-tokens", "8"])
        == 0
    )
    shutil.copytree("decoded", "edited")
    for path in Path("edited").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for number, row in enumerate(rows):
            lines = [(s["speaker"], s["text"][number % 2 :]) for s in row["reference"]]
            row["raw"] = "\n".join(f"{who}: {text}" if who else text for who, text in lines)
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    scores = import_module("pipeline.evaluation.scores")
    for folder in (Path("decoded"), Path("edited")):
        scores.write_scores(scores.score_decoded(folder, replicates=100), folder / "scores.json")


def main(archive: Path) -> None:
    """Make everything in a temporary folder and pack it."""
    checkout = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        (Path("tests/support")).mkdir(parents=True)
        shutil.copy(checkout / "tests/support/zero3_gathers.json", "tests/support")
        checkpoints, tiny = import_module("pipeline.model.checkpoints"), import_module("tests.support.tiny")
        checkpoints.make_encoder(Path("base/encoder"), 8, 1, 1, attention_heads=2)
        checkpoints.make_tokenizer(Path("base/llm"), tiny.TEXTS, 300)
        sizes: dict[str, Any] = {"hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1}
        checkpoints.make_llm(Path("base/llm"), tiny.tokenizer_size(Path("base/llm")), **sizes)
        speak(Path("speech"))
        pack()
        figures = train() | export()
        decode()
        dataset = import_module("shards.index").open_dataset("data")
        figures |= {"fingerprint": dataset.fingerprint(), "speakers": list(dataset.speakers.ids)}
        Path("expected.json").write_text(json.dumps(figures))
        with tarfile.open(archive, "w:xz", preset=9) as tar:
            for name in KEPT:
                tar.add(name, filter=kept)
        print(archive, archive.stat().st_size, "bytes")


def kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """An entry without its owner; None for what is not archived: checkpoints of finished runs."""
    if "checkpoints" in info.name and not info.name.startswith("stage4-stopped"):
        return None
    return info.replace(uid=0, gid=0, uname="", gname="", deep=False)


if __name__ == "__main__":
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29731",
    }
    os.environ |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    main(Path(sys.argv[1]).absolute())
