"""`make demo` with almost no training: every step of the whole way, on real speech, as a user starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import webdataset

from shards.weights.fetch import cache_folder

ROOT = Path(__file__).resolve().parents[2]
CACHE = cache_folder()
pytestmark = pytest.mark.timeout(1800)  # beside other tests on two cores


def start(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "launch" / "demo.py"), "--smoke", "--out", str(out), "--cache", str(CACHE)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=out, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The finished demo and its output. A rank of stage 1 is killed on the way, then the demo continues."""
    out = tmp_path_factory.mktemp("demo")
    killed = start(out)
    victim = wait_for_rank(out, killed)
    os.kill(victim, signal.SIGKILL)
    printed, _ = killed.communicate(timeout=300)
    (out / "killed.txt").write_text(f"{killed.returncode}\n{printed}")
    finished = start(out)
    printed, _ = finished.communicate(timeout=1500)
    assert finished.returncode == 0, printed
    return out, printed


def wait_for_rank(out: Path, process: subprocess.Popen[str]) -> int:
    """Process id of a rank of stage 1, once it trains."""
    log = out / "logs" / "stages-1-to-4-train.log"
    end = time.monotonic() + 1200  # the first call on a machine fetches the speech and packs it
    while time.monotonic() < end and process.poll() is None:
        if log.exists() and "trainable set" in log.read_text(errors="replace"):
            for entry in Path("/proc").glob("[0-9]*/environ"):
                try:
                    environ = entry.read_bytes().split(b"\0")
                    command = (entry.parent / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"RANK=1" in environ and str(out).encode() in command and b"launch/train.py" in command:
                    return int(entry.parent.name)
        time.sleep(0.1)
    raise AssertionError(f"stage 1 never trained: {process.communicate()[0]}")


def test_a_killed_rank_ends_the_demo_with_advice(demo: tuple[Path, str]) -> None:
    code, printed = (demo[0] / "killed.txt").read_text().split("\n", 1)
    assert code == "1"
    assert "FAILED: stages 1 to 4: train" in printed
    assert "make demo" in printed


def test_a_second_call_continues_where_the_first_stopped(demo: tuple[Path, str]) -> None:
    assert re.search(r"have  \d+/\d+  pack asr\n", demo[1])
    assert re.search(r"done  \d+/\d+  stage 1: train  ", demo[1])


def test_scores_of_every_stage_and_mode(demo: tuple[Path, str]) -> None:
    rows = json.loads((demo[0] / "scores.json").read_text())
    found = {(r["stage"], r["test_set"], r["mode"]) for r in rows}
    assert {(s, "test-simulated", m) for s in (1, 2, 3, 4) for m in ("no", "match", "over")} <= found
    assert (1, "test-simulated", "asr") in found
    assert {(4, "test-simulated (vectors permuted)", m) for m in ("match", "over")} <= found
    assert "test-simulated, vectors permuted among the names: match saMER" in demo[1]
    for row in rows:
        assert row["cer"] is not None
        assert row["n_ref"] > 0
        assert (row["cpcer"] is None) == (row["mode"] == "asr")
        assert (row["sacer"] is None) == (row["mode"] in ("asr", "no"))
        if row["cpcer"] is not None:
            assert row["delta_cp"] == pytest.approx(row["cpcer"] - row["cer"])


def test_every_stage_starts_from_the_one_before(demo: tuple[Path, str]) -> None:
    done = {n: json.loads((demo[0] / "exp" / f"stage{n}" / "done").read_text()) for n in (1, 2, 3, 4)}
    for n in (2, 3, 4):
        assert done[n]["bases"]["init_from"] == done[n - 1]["weights_sha256"]
    assert len({d["weights_sha256"] for d in done.values()}) == 4


def test_held_out_loss_falls_in_every_stage(demo: tuple[Path, str]) -> None:
    for n in (1, 2, 3, 4):
        lines = (demo[0] / "exp" / f"stage{n}" / "validation.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss"] for line in lines]
        assert losses[-1] < losses[0], (n, losses)
        assert f"stage {n}: held-out loss" in demo[1]


def test_report_is_one_page(demo: tuple[Path, str]) -> None:
    page = (demo[0] / "report.html").read_text()
    assert "<svg" in page
    assert "cpMER" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_plain_tools_read_the_shards(demo: tuple[Path, str]) -> None:
    folder = demo[0] / "data" / "simulated"
    described = json.loads((folder / "dataset.json").read_text())
    tars = sorted((folder / "shards").glob("*.tar"))
    assert [t.stem for t in tars] == [s["name"] for s in described["shards"]]
    listed = subprocess.run(["tar", "tf", str(tars[0])], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(tars[0]) as tar:
        assert listed == tar.getnames()
    seen = 0
    for tar in tars:
        for sample in webdataset.WebDataset(str(tar), shardshuffle=False):
            meta = json.loads(sample["json"])
            assert sample["flac"][:4] == b"fLaC"
            assert len(meta["speakers"]) in (2, 3, 4)
            assert sample["npy"][:6] == b"\x93NUMPY"
            seen += 1
    assert seen == described["samples"]
