"""Tiny checkpoints in the layouts of FunASR's models on ModelScope: FSMN-VAD, SenseVoice and Paraformer.

The folders have the files and keys of the published ones: ``configuration.json`` that names the files, ``config.yaml``,
``model.pt``, ``am.mvn``, and a SentencePiece model or ``tokens.json`` and ``seg_dict``. ``import funasr`` takes 7 s of
CPU time and is left to who calls.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from pipeline.standins.encoder_folders import write_mvn

THRESHOLD, PITCHES = 4.0, (400, 900, 1700, 2900)
TAGS = ["<|zh|>", "<|en|>", "<|NEUTRAL|>", "<|Speech|>", "<|woitn|>", "<|withitn|>"]
TONES = ["今", "天", "▁hel", "lo"]  # a token for each of PITCHES
FRONTEND = {"fs": 16000, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10, "dither": 0.0}
SANM = {
    "output_size": 32, "attention_heads": 2, "linear_units": 32, "num_blocks": 2, "dropout_rate": 0.0,
    "positional_dropout_rate": 0.0, "attention_dropout_rate": 0.0, "input_layer": "pe",
    "pos_enc_class": "SinusoidalPositionEncoder", "normalize_before": True, "kernel_size": 11, "sanm_shfit": 0,
    "selfattention_layer_type": "sanm",
}  # fmt: skip


def tones(plan: list[tuple[int | None, float]]) -> np.ndarray:
    """(n,) at 16 kHz: tones by their index in PITCHES, or silence, for so many seconds each."""
    parts = []
    for pitch, seconds in plan:
        t = np.arange(round(seconds * 16_000)) / 16_000
        parts.append(np.zeros(len(t)) if pitch is None else 0.3 * np.sin(2 * np.pi * PITCHES[pitch] * t))
    return np.concatenate(parts).astype(np.float32)


def _write(folder: Path, config: dict[str, Any], state: Any, files: dict[str, Any], width: int, scale: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "model.pt")
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    write_mvn(folder / "am.mvn", [0.0] * width, [scale] * width)
    metas = {"init_param": "model.pt", "config": "config.yaml", "frontend_conf": {"cmvn_file": "am.mvn"}, **files}
    about = {"framework": "pytorch", "task": "x", "model": {"type": "funasr"}, "file_path_metas": metas}
    (folder / "configuration.json").write_text(json.dumps(about))
    return folder


def build(config: dict[str, Any], **more: Any) -> torch.nn.Module:
    """The class of a configuration, as FunASR's AutoModel builds it."""
    import funasr  # noqa: F401 - its own import fills the tables, that of a module which is loaded already does not
    from funasr.register import tables

    return tables.model_classes[config["model"]](**{**config, **config.get("model_conf", {}), **more})


def vad_folder(folder: Path) -> Path:
    """FSMN-VAD whose network passes loudness through: frames under a level are silence."""
    encoder = {
        "input_dim": 400, "input_affine_dim": 4, "fsmn_layers": 2, "linear_dim": 4, "proj_dim": 4, "lorder": 3,
        "rorder": 0, "lstride": 1, "rstride": 0, "output_affine_dim": 4, "output_dim": 5,
    }  # fmt: skip
    config = {
        "frontend": "WavFrontendOnline", "frontend_conf": {**FRONTEND, "lfr_m": 5, "lfr_n": 1},
        "model": "FsmnVADStreaming", "encoder": "FSMN", "encoder_conf": encoder,
        "model_conf": {
            "sample_rate": 16000, "detect_mode": 1, "snr_mode": 0, "max_end_silence_time": 800,
            "max_start_silence_time": 3000, "do_start_point_detection": True, "do_end_point_detection": True,
            "window_size_ms": 200, "sil_to_speech_time_thres": 150, "speech_to_sil_time_thres": 150,
            "speech_2_noise_ratio": 1.0, "do_extend": 1, "lookback_time_start_point": 200,
            "lookahead_time_end_point": 100, "max_single_segment_time": 60000, "snr_thres": -100.0,
            "noise_frame_num_used_for_snr": 100, "decibel_thres": -100.0, "speech_noise_thres": 0.6,
            "fe_prior_thres": 0.0001, "silence_pdf_num": 1, "sil_pdf_ids": [0], "speech_noise_thresh_low": -0.1,
            "speech_noise_thresh_high": 0.3, "output_frame_probs": False, "frame_in_ms": 10, "frame_length_ms": 25,
        },
    }  # fmt: skip
    network = build(config)
    state = {k: torch.zeros_like(v) for k, v in network.state_dict().items()}
    for name, value in state.items():
        if name.endswith("in_linear1.linear.weight"):
            value[0] = 1 / 400  # mean of the features
        elif name.endswith("out_linear2.linear.weight"):
            value[0, 0] = -1.0  # class 0 is silence
        elif name.endswith("out_linear2.linear.bias"):
            value[0] = THRESHOLD  # of the mean of log-mels
        elif name.endswith("weight") and "conv" not in name:
            value[0, 0] = 1.0
    return _write(folder, config, state, {}, 400, 1.0)


def sentencepiece(path: Path) -> list[str]:
    """Write a model of the tags, TONES and letters; return its pieces."""
    import sentencepiece

    text = path.with_suffix(".txt")
    text.write_text("\n".join(["今天", "hello", "今天 hello", "天 hello 今"] * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(path).removesuffix(".model"), vocab_size=30, model_type="bpe",
        user_defined_symbols=[*TAGS, *TONES], add_dummy_prefix=False, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [model.IdToPiece(i) for i in range(model.GetPieceSize())]


def sensevoice_folder(folder: Path, plan: list[tuple[int | None, float]], steps: int = 150) -> Path:
    """SenseVoice that was taught, frame by frame, to write the token of each tone, after four tags."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "chn_jpn_yue_eng_ko_spectok.bpe.model"
    pieces = sentencepiece(folder / name)
    config = {
        "encoder": "SenseVoiceEncoderSmall", "encoder_conf": {**SANM, "tp_blocks": 1},
        "model": "SenseVoiceSmall",
        "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
        "tokenizer": "SentencepiecesTokenizer", "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>"},
        "frontend": "WavFrontend", "frontend_conf": {**FRONTEND, "lfr_m": 7, "lfr_n": 6, "cmvn_file": None},
    }  # fmt: skip
    torch.manual_seed(0)
    model: Any = build(config, input_size=560, vocab_size=len(pieces))
    _teach(model, plan, pieces, steps)
    files = {"tokenizer_conf": {"bpemodel": name}}
    return _write(folder, config, model.state_dict(), files, 560, 0.1)


def _teach(model: Any, plan: list[tuple[int | None, float]], pieces: list[str], steps: int) -> None:
    """Teach frames (of 60 ms) their token: that of the tone in the frame's middle, else the blank."""
    from funasr.register import tables

    frontend = tables.frontend_classes["WavFrontend"](**FRONTEND, lfr_m=7, lfr_n=6)
    wave = tones(plan)
    features, _ = frontend(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    edges, count = np.cumsum([seconds for _, seconds in plan]), features.shape[1]
    places = np.minimum(np.searchsorted(edges, 0.06 * np.arange(count) + 0.03), len(plan) - 1)
    tags = [pieces.index(t) for t in ("<|zh|>", "<|NEUTRAL|>", "<|Speech|>", "<|woitn|>")]
    heard = [plan[i][0] for i in places]
    wanted = torch.tensor([0 if h is None else pieces.index(TONES[h]) for h in heard])
    draw, optimiser = np.random.default_rng(0), torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for _ in range(steps):
        first, last = int(draw.integers(0, count // 2)), int(draw.integers(count // 2, count + 1))
        query = model.embed(torch.tensor([[int(draw.choice([0, 3])), 1, 2, 15]]))  # any language or Mandarin
        given = torch.cat([query, 0.1 * features[:, first:last]], 1)
        said = model.ctc.ctc_lo(model.encoder(given, torch.tensor([given.shape[1]]))[0])[0]
        loss = torch.nn.functional.cross_entropy(said, torch.cat([torch.tensor(tags), wanted[first:last]]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()


def paraformer_folder(folder: Path, words: list[str], seg_dict: dict[str, list[str]]) -> Path:
    """Paraformer of random weights that predicts its tokens' times, as the published one does."""
    decoder = {
        "attention_heads": 2, "linear_units": 32, "num_blocks": 2, "dropout_rate": 0.0, "positional_dropout_rate": 0.0,
        "self_attention_dropout_rate": 0.0, "src_attention_dropout_rate": 0.0, "att_layer_num": 2, "kernel_size": 11,
        "sanm_shfit": 0,
    }  # fmt: skip
    tokens = ["<blank>", "<s>", "</s>", *words, "<unk>"]
    config = {
        "model": "SeacoParaformer",
        "model_conf": {
            "ctc_weight": 0.0, "lsm_weight": 0.1, "length_normalized_loss": True, "predictor_weight": 1.0,
            "predictor_bias": 1, "sampling_ratio": 0.75, "inner_dim": 32, "bias_encoder_type": "lstm",
            "bias_encoder_bid": False, "seaco_lsm_weight": 0.1, "seaco_length_normal": True, "train_decoder": True,
            "NO_BIAS": len(tokens) - 1,
        },
        "encoder": "SANMEncoder", "encoder_conf": SANM,
        "decoder": "ParaformerSANMDecoder", "decoder_conf": decoder,
        "seaco_decoder": "ParaformerSANMDecoder",
        "seaco_decoder_conf": {**decoder, "num_blocks": 1, "att_layer_num": 1, "wo_input_layer": True},
        "predictor": "CifPredictorV3",
        "predictor_conf": {
            "idim": 32, "threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45, "smooth_factor2": 0.25,
            "noise_threshold2": 0.01, "upsample_times": 3, "use_cif1_cnn": False, "upsample_type": "cnn_blstm",
        },
        "frontend": "WavFrontend", "frontend_conf": {**FRONTEND, "lfr_m": 7, "lfr_n": 6},
        "tokenizer": "CharTokenizer", "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokens.json").write_text(json.dumps(tokens), encoding="utf-8")
    (folder / "seg_dict").write_text("".join(f"{k} {' '.join(v)}\n" for k, v in seg_dict.items()), encoding="utf-8")
    torch.manual_seed(1)
    model = build(config, input_size=560, vocab_size=len(tokens))
    files = {"tokenizer_conf": {"token_list": "tokens.json", "seg_dict_file": "seg_dict"}}
    return _write(folder, config, model.state_dict(), files, 560, 0.1)
