import importlib.util
import subprocess
import sys

import pytest

from shards.cli import COMMANDS, main

HEAVY = ("torch", "pyarrow", "boto3", "soundfile", "webdataset", "funasr", "numpy")


def test_help_imports_no_heavy_package():
    code = (
        "import sys, shards.cli\n"
        "try: shards.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert importlib.util.find_spec(COMMANDS[command][0]) is not None
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: speakerlm-shards {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    ["pack m o", "clips m o", "simulate m o --count 1"],
)
def test_negative_seed_is_rejected(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "--seed", "-1"])
    assert caught.value.code == 2
    assert "'-1' is not an integer >= 0" in capsys.readouterr().err


def test_unknown_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["unpack"])
    assert caught.value.code == 2
    assert "unpack" in capsys.readouterr().err


def test_expected_errors_have_no_traceback(tmp_path, capsys):
    assert main(["info", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("speakerlm-shards info: ")
    assert "dataset.json" in err
    assert "Traceback" not in err


def test_unexpected_errors_keep_their_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("shards.dataset.info.open_dataset", lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["info", str(tmp_path)])
