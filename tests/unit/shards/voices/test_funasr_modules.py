"""Single modules of funasr; afterwards funasr imports as usual."""

import subprocess
import sys

import pytest

from shards.errors import ConfigError
from shards.voices.funasr_modules import funasr_module

PROBE = """
import sys
from shards.voices.funasr_modules import funasr_module
network = funasr_module("funasr.models.campplus.model").CAMPPlus
tables = funasr_module("funasr.register").tables
funasr_module("funasr.models.sense_voice.model")
assert "SenseVoiceEncoderSmall" in tables.encoder_classes
assert "funasr" not in sys.modules, "the empty package stays behind"
loaded = {m for m in sys.modules if m.startswith("funasr.models.")}
import funasr
assert len(loaded) < len({m for m in sys.modules if m.startswith("funasr.models.")}) / 5, "everything was imported"
from funasr import AutoModel
from funasr.models.campplus.model import CAMPPlus
from funasr.register import tables as same
assert CAMPPlus is network and same is tables
"""


def test_later_import_of_funasr_is_complete_and_shares_the_modules() -> None:
    ran = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False, timeout=240)
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_missing_module_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="no_such_model"):
        funasr_module("funasr.models.no_such_model")
