"""The command on real files, with a tiny model that has learnt nothing: a finished run, and the same model exported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from safetensors.torch import load_file, save_file

from pipeline.decode.load_engine import load_model
from pipeline.export.folder import export
from pipeline.transcribe.cli import main
from pipeline.transcribe.outputs import FORMATS, SUFFIXES
from shards.errors import ConfigError, ModelError
from shards.sample import SAMPLE_RATE
from tests.support.speech import package_cache
from tests.support.training import finished_run, make_base, sharpen
from tests.support.voices import PEOPLE, enrolment, talk


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run``, ``exported``, ``meeting.wav`` of 25 s and two enrolments."""
    folder = tmp_path_factory.mktemp("cli")
    base = make_base(folder / "base")
    sharpen(base.llm)
    run = finished_run(folder, speaker_dim=192, extractor="campplus_cn_en_common")
    _, _, extractor, registers = load_model(run, "cpu")
    assert (extractor, registers) == ("campplus_cn_en_common", True)
    export(run, folder / "exported")
    wave, _ = talk(PEOPLE[:2], 6)
    soundfile.write(folder / "meeting.wav", wave[: 25 * SAMPLE_RATE], SAMPLE_RATE)
    for person in PEOPLE[:2]:
        enrolment(folder, person)
    return folder


def arguments(folder: Path, model: str, out: Path, *more: str) -> list[str]:
    return [
        str(folder / "meeting.wav"), "--model", str(folder / model), "--out", str(out), "--cache", str(package_cache()),
        "--seconds", "8-12", "--device", "cpu", *more,
    ]  # fmt: skip


def enrolled(folder: Path) -> list[str]:
    return [f"--enrol={name}={folder / f'{p}-0.wav'}" for name, p in zip(("Carlo", "June"), PEOPLE, strict=False)]


def test_exported_folder_loads_without_a_prompt_for_trust(folder: Path):
    """transformers asks on the terminal before it runs code out of a folder; ours needs none of it."""
    where = str(folder / "exported")
    code = f"import pathlib, pipeline.decode.load_engine as o; o.load_model(pathlib.Path({where!r}), 'cpu')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "custom code" not in done.stdout + done.stderr


def test_a_run_and_its_export_write_the_same_files(folder: Path, tmp_path: Path, capsys):
    assert main(arguments(folder, "run", tmp_path / "a", *enrolled(folder))) == 0
    shown = capsys.readouterr().out
    assert main(arguments(folder, "exported", tmp_path / "b", *enrolled(folder))) == 0
    found = {kind: (tmp_path / "a" / f"meeting{suffix}").read_text() for kind, suffix in SUFFIXES.items()}
    content = json.loads(found["json"])
    assert content["enrolled"] == ["Carlo", "June"]
    assert content["times"] == "estimated"
    assert content["complete"]
    assert len(content["chunks"]) >= 2
    assert all(c["raw"] and c["stop"] in ("loop", "limit", "end") for c in content["chunks"])
    assert 20 < content["seconds"] <= 25
    assert {t["text"] for t in content["turns"]} == {r["words"] for r in json.loads(found["seglst"])}
    assert found["srt"].count(" --> ") == len(content["turns"])
    assert found["txt"] == shown
    other = json.loads((tmp_path / "b" / "meeting.json").read_text())
    for key in ("turns", "chunks", "speakers"):
        assert other[key] == content[key]


def test_one_format_without_enrolment(folder: Path, tmp_path: Path):
    assert main(arguments(folder, "run", tmp_path, "--formats", "txt", "--vad", "energy", "--naming", "none")) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["meeting.txt"]


def test_truncated_recording_is_written_and_reported(folder: Path, tmp_path: Path, capsys):
    wave, rate = soundfile.read(folder / "meeting.wav")
    soundfile.write(tmp_path / "cut.flac", wave, rate)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) * 3 // 4])
    line = arguments(folder, "run", tmp_path, "--naming", "none")
    assert main([str(tmp_path / "cut.flac"), *line[1:]]) == 1
    content = json.loads((tmp_path / "cut.json").read_text())
    assert not content["complete"]
    assert "cut.flac" in content["error"]
    assert content["chunks"]
    assert "the turns before it are transcribed" in capsys.readouterr().err


def test_other_recordings_are_transcribed_after_an_unreadable_one(folder: Path, tmp_path: Path, capsys):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    assert main([str(broken), *arguments(folder, "run", tmp_path, "--formats", "json", "--vad", "energy")]) == 1
    assert "broken.wav" in capsys.readouterr().err
    assert json.loads((tmp_path / "meeting.json").read_text())["complete"]
    assert not (tmp_path / "broken.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--enrol", "Mike"], "expected NAME=FILE"),
        (["--enrol", "Mike=nowhere.wav"], "no such file"),
        (["--formats", "doc"], "known: seglst"),
        (["--seconds", "50-40"], "not a range"),
        (["--device", "cuda:9"], "no GPU"),
        (["--out", "/proc/nowhere"], "choose a writable folder"),
    ],
)
def test_wrong_options_are_explained(folder: Path, tmp_path: Path, capsys, more: list[str], message: str):
    line = arguments(folder, "run", tmp_path, *more)
    assert main(line) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
        (lambda f: (f / "config.json").write_text('{"model_type": "qwen2"}'), "a model of type 'qwen2', not SpeakerLM"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").write_bytes(b"cut"), "cannot be loaded"),
        (
            lambda f: drop(f / "model.safetensors", "speaker_projector.weight"),
            "missing or do not fit: missing_keys speaker_proj",
        ),
    ],
)
def test_damaged_export_is_reported(
    folder: Path, tmp_path: Path, capsys, damage: Callable[[Path], object], message: str
):
    shutil.copytree(folder / "exported", tmp_path / "exported")
    damage(tmp_path / "exported")
    assert main([*arguments(folder, "run", tmp_path), "--model", str(tmp_path / "exported")]) == 1
    assert message in capsys.readouterr().err


def drop(path: Path, name: str) -> None:
    """One tensor less."""
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})


def test_export_of_stage_1_takes_no_enrolment(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "run", tmp_path / "run")
    recipe = (tmp_path / "run" / "config.yaml").read_text()
    assert "stage: 4" in recipe
    (tmp_path / "run" / "config.yaml").write_text(recipe.replace("stage: 4", "stage: 1"))
    export(tmp_path / "run", tmp_path / "exported")
    assert [load_model(tmp_path / name, "cpu")[3] for name in ("run", "exported")] == [False, False]
    assert load_model(folder / "exported", "cpu")[3]


def test_chunks_before_one_that_is_too_long_are_kept(folder: Path, tmp_path: Path, monkeypatch, capsys):
    from pipeline.transcribe import transcriber

    calls = []

    class Short(transcriber.Transcriber):
        """The LLM has room for one chunk."""

        def prompt_for(self, chunk, people):
            calls.append(chunk)
            if len(calls) > 1:
                raise ModelError("a prompt of 99 positions")
            return super().prompt_for(chunk, people)

    monkeypatch.setattr(transcriber, "Transcriber", Short)
    assert main(arguments(folder, "run", tmp_path, "--batch", "1", "--naming", "none")) == 1
    content = json.loads((tmp_path / "meeting.json").read_text())
    assert len(content["chunks"]) == 1
    assert not content["complete"]
    assert "a prompt of 99 positions; the turns before it are transcribed" in capsys.readouterr().err


def test_interrupted_recording_is_written_so_far(folder: Path, tmp_path: Path, monkeypatch, capsys):
    from pipeline.transcribe import transcriber

    chunks = []

    class Interrupted(transcriber.Transcriber):
        def prompt_for(self, chunk, people):
            chunks.append(chunk)
            if len(chunks) > 1:
                raise KeyboardInterrupt
            return super().prompt_for(chunk, people)

    monkeypatch.setattr(transcriber, "Transcriber", Interrupted)
    shutil.copy(folder / "meeting.wav", tmp_path / "next.wav")
    line = [str(tmp_path / "next.wav"), *arguments(folder, "run", tmp_path, "--batch", "1", "--naming", "none")]
    assert main([line[1], line[0], *line[2:]]) == 130
    content = json.loads((tmp_path / "meeting.json").read_text())
    assert len(content["chunks"]) == 1
    assert not content["complete"]
    assert not (tmp_path / "next.json").exists()
    assert "meeting.wav: interrupted; the turns before it are transcribed" in capsys.readouterr().err


def test_the_page_takes_no_recordings(folder: Path, capsys):
    with pytest.raises(SystemExit):
        main(["--model", str(folder / "run"), "--ui", "--enrol", "Mike=mike.wav"])
    assert "given on the page" in capsys.readouterr().err


def test_a_folder_without_a_model_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="neither a finished run"):
        load_model(tmp_path, "cpu")
    shutil.copy(folder / "run" / "config.yaml", tmp_path)
    assert main([*arguments(folder, "run", tmp_path), "--model", str(tmp_path)]) == 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom pipeline.transcribe.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'transformers', 'gradio', 'soundfile') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    assert all(kind in out for kind in FORMATS)
