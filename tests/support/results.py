"""Small outputs of runs and decoders: logs of a training, folders of decoded clips."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.support.scoring import random_session


def decoded(folder: Path, stage: int, modes: Sequence[str] = ("no", "match", "over")) -> Path:
    """Write six clips of three sessions per mode."""
    folder.mkdir(parents=True)
    for mode in modes:
        lines = []
        for i in range(6):
            s = random_session(100 * stage + i + 1)
            names = sorted({x.speaker for x in s.reference}) if mode != "no" else []
            raw = "\n".join(f"{x.speaker}: {x.text}" for x in s.hypothesis)
            reference = [{"speaker": x.speaker, "start": x.start, "end": x.end, "text": x.text} for x in s.reference]
            lines.append({
                "key": f"k{i}", "session": f"m{i % 3}", "corpus": "toy", "split": "test", "mode": mode, "raw": raw,
                "n_ov": 3 if mode == "over" else None, "names": names, "reference": reference,
            })  # fmt: skip
        (folder / f"{mode}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    about = {"run": f"slm-stage{stage}", "stage": stage, "test_set": "AliMeeting", "extractor": "CAM++", "hours": 212.0}
    (folder / "decode.json").write_text(json.dumps({"about": about}))
    return folder


def make_run(folder: Path, steps: int = 30, level: float = 2.0) -> Path:
    """Write the logs of a run that still trains: a skipped step, three validations, an incomplete last line."""
    folder.mkdir(parents=True)
    train, validation = [], []
    for s in range(1, steps + 1):
        row = {"step": s, "loss": level / s, "lr": 1e-5, "grad_norm": 1.0, "positions": 500, "audio_seconds": 1800.0}
        row |= {"seconds": 2.0, "wait_seconds": 0.5, "losses": {"d/no": level / s}}
        train.append(row | {"module_norms": {"lora": 0.5, "encoder": 0.1} if s % 10 == 0 else {}})
    if steps > 4:
        train[4]["loss"] = None  # a skipped step
    for s in (0, 10, 20):
        scores = {"match": {"clips": 2, "cer": 30.0, "cpcer": 40.0, "sacer": 50.0 - s}}
        scores["all"] = scores["match"]
        gain = {"names": s / 10, "all": 0.1}
        row = {"step": s, "loss": level, "losses": {"d/no": level}, "seconds": 9.0}
        validation.append(row | {"registration_gain": gain, "scores": scores})
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in train) + '{"step": 31, "lo')
    (folder / "validation.jsonl").write_text("".join(json.dumps(r) + "\n" for r in validation))
    (folder / "events.jsonl").write_text('{"step": 5, "event": "not finite"}\n{"step": 9, "event": "spike"}\n')
    return folder
