"""Writing encoder checkpoints in the layouts of SenseVoice (FunASR) and Whisper (Hugging Face)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from pipeline.model.encoders.sensevoice import FRONTEND_CONF
from pipeline.model.encoders.whisper import PREFIXES

if TYPE_CHECKING:
    from torch import Tensor


def write_sensevoice_folder(
    folder: Path,
    encoder_state: Mapping[str, Tensor],
    encoder_conf: Mapping[str, Any],
    *,
    class_name: str = "SenseVoiceEncoderSmall",
    shift: Sequence[float] | None = None,
    scale: Sequence[float] | None = None,
) -> Path:
    """Write an encoder in SenseVoiceSmall's layout; without ``shift`` and ``scale`` features pass unchanged.

    The real file holds a query embedding and a CTC head beside the encoder; small ones are written too, because a
    loader has to skip them.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    width = FRONTEND_CONF["n_mels"] * FRONTEND_CONF["lfr_m"]
    dim = int(encoder_conf["output_size"])
    state = {f"encoder.{k}": v.detach().cpu().clone() for k, v in encoder_state.items()}
    state |= {"embed.weight": torch.zeros(16, width)}
    state |= {"ctc.ctc_lo.weight": torch.zeros(8, dim), "ctc.ctc_lo.bias": torch.zeros(8)}
    torch.save(state, folder / "model.pt")
    conf = {
        "encoder": class_name,
        "encoder_conf": dict(encoder_conf),
        "model": "SenseVoiceSmall",
        "frontend": "WavFrontend",
        "frontend_conf": FRONTEND_CONF,
    }
    OmegaConf.save(OmegaConf.create(conf), folder / "config.yaml")
    write_mvn(folder / "am.mvn", shift or [0.0] * width, scale or [1.0] * width)
    return folder


def write_mvn(path: Path, shift: Sequence[float], scale: Sequence[float]) -> None:
    """Inverse of :func:`pipeline.model.encoders.sensevoice.read_mvn`, line by line as FunASR reads it."""
    n = len(shift)
    lines = ["<Nnet>", f"<Splice> {n} {n}", "[ 0 ]"]
    for component, vector in (("<AddShift>", shift), ("<Rescale>", scale)):
        lines += [f"{component} {n} {n}", f"<LearnRateCoef> 0 [ {' '.join(f'{x:.9g}' for x in vector)} ]"]
    path.write_text("\n".join([*lines, "</Nnet>", ""]), encoding="utf-8")


def write_whisper_folder(folder: Path, encoder_state: Mapping[str, Tensor], conf: Mapping[str, Any]) -> Path:
    """Write an encoder alone in Whisper's layout; inverse of reading."""
    from safetensors.torch import save_file
    from transformers import WhisperConfig

    folder.mkdir(parents=True, exist_ok=True)
    state = {PREFIXES[0] + k: v.detach().cpu().contiguous().clone() for k, v in encoder_state.items()}
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
    WhisperConfig(**conf).save_pretrained(str(folder))
    return folder
