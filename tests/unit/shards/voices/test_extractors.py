"""Speaker models: published architectures with random weights, and the published CAM++."""

import json
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from shards.dataset.speaker_bank import SAME_PERSON_COSINE
from shards.errors import ConfigError, ModelError, SpeakerError
from shards.manifests.manifest import Recording, SpeakerInfo, write_manifest
from shards.voices.enrolment import Enroller
from shards.voices.extractors import campplus, find_extractor, load_extractor
from shards.voices.features import log_mel, unit_norm
from shards.voices.funasr_modules import funasr_module
from shards.voices.network_extractor import NetworkExtractor
from tests.support.manifests import tone
from tests.support.speech import package_cache

WAVE = tone(0.6, pitch=180, seed=1).astype(np.float32)
FILES = {"eres2netv2": "pretrained_eres2netv2.ckpt", "eres2netv2w24s4ep4": "pretrained_eres2netv2w24s4ep4.ckpt"}
FILES |= {"campplus": "campplus_cn_common.bin", "campplus-voxceleb": "campplus_voxceleb.bin"}


def snapshot(folder: Path, name: str) -> Path:
    """Make a folder in ModelScope's layout: configuration.json and a state dict of random weights."""
    import torch

    torch.manual_seed(3)
    network = find_extractor(name).ARCHITECTURE.build()
    for buffer in network.buffers():  # statistics of a trained network, so that no layer's output vanishes
        if buffer.dtype.is_floating_point:
            buffer.uniform_(0.5, 1.5)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / FILES[name])
    configuration = {"task": "speaker-verification", "model": {"pretrained_model": FILES[name]}}
    (folder / "configuration.json").write_text(json.dumps(configuration))
    (folder / "other.bin").write_bytes(b"a second file, which the configuration does not name")
    return folder


def by_hand(folder: Path, name: str) -> np.ndarray:
    """Run funasr's class on the same features."""
    import torch

    network = find_extractor(name).ARCHITECTURE.build().eval()
    network.load_state_dict(torch.load(folder / FILES[name], weights_only=True))
    with torch.inference_mode():
        vector: np.ndarray = network(torch.from_numpy(log_mel(WAVE))[None]).numpy()
    return unit_norm(vector)[0]


@pytest.mark.parametrize("name", list(FILES))
def test_every_extractor_loads_its_published_layout(tmp_path: Path, name: str) -> None:
    folder = snapshot(tmp_path / "model", name)
    extractor = load_extractor(f"{name}@{folder}", cache=tmp_path / "cache")
    vector = extractor.embed([WAVE])[0]
    assert vector.shape == (find_extractor(name).ARCHITECTURE.dim,) == (extractor.dim,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert np.abs(vector - by_hand(folder, name)).max() < 1e-5
    assert extractor.id == {"campplus": "campplus_cn_common", "campplus-voxceleb": "campplus_voxceleb"}.get(name, name)


def test_weights_of_another_architecture_are_rejected(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "model", "campplus")
    for name in ("eres2netv2", "campplus-voxceleb"):
        extractor = load_extractor(f"{name}@{folder / FILES['campplus']}", cache=tmp_path / "cache")
        with pytest.raises(ModelError, match=r"campplus_cn_common.bin: not weights of .* Name the architecture"):
            extractor.embed([WAVE])


def test_other_weights_have_another_id(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "model", "campplus")
    tuned = folder / FILES["campplus"]
    tuned.rename(tmp_path / "tuned.pt")
    extractor = load_extractor(f"campplus@{tmp_path / 'tuned.pt'}", cache=tmp_path / "cache")
    assert extractor.id == f"campplus-{extractor.sha256[:8]}"


def test_default_source_of_eres2netv2_is_modelscope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = snapshot(tmp_path / "model", "eres2netv2")
    stand_in = ModuleType("modelscope.hub.snapshot_download")
    stand_in.snapshot_download = lambda name, **_: str(folder) if "eres2netv2_sv" in name else ""  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modelscope.hub.snapshot_download", stand_in)
    assert load_extractor("eres2netv2", cache=tmp_path / "cache").id == "eres2netv2"


def test_safetensors_weights_are_loaded(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder = snapshot(tmp_path / "model", "campplus")
    weights = torch.load(folder / FILES["campplus"], weights_only=True)
    save_file(weights, tmp_path / "model.safetensors")
    vector = load_extractor(f"campplus@{tmp_path / 'model.safetensors'}", cache=tmp_path / "c").embed([WAVE])[0]
    assert np.abs(vector - by_hand(folder, "campplus")).max() < 1e-5


def test_parity_with_funasr(tmp_path: Path) -> None:
    """The published CAM++ on real speech gives the vectors of funasr's own class."""
    import torch

    from shards.corpora.packaged_speech import PACKAGES
    from shards.sound.audio import load
    from shards.weights.fetch import fetch_debian

    cache = package_cache()
    weights = campplus.published_weights(cache)
    (package,) = [p for p in PACKAGES if p.name == "asterisk-prompt-fr-armelle"]
    files = sorted((fetch_debian([package], cache)[package.name] / "usr/share/asterisk/sounds/fr").glob("conf-*.gsm"))
    waves = [w for w in map(load, files) if 16_000 < len(w) < 80_000][:6]
    assert len(waves) == 6
    ours = load_extractor("campplus", checkpoint=weights, cache=tmp_path).embed(waves)
    theirs = funasr_module("funasr.models.campplus.model").CAMPPlus(feat_dim=80, embedding_size=192)
    theirs.load_state_dict(torch.load(weights, weights_only=True))
    theirs.eval()
    for wave, vector in zip(waves, ours, strict=True):
        with torch.inference_mode():
            (answer,), _ = theirs.inference([wave], device="cpu")
        assert np.abs(unit_norm(answer["spk_embedding"].numpy())[0] - vector).max() < 1e-4


def test_accelerator_batches_have_equal_length(tmp_path: Path) -> None:
    """Without an accelerator: the network records its input shapes."""
    import torch

    class Mean(torch.nn.Module):
        shapes: list[tuple[int, ...]] = []  # noqa: RUF012

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.shapes.append(tuple(x.shape))
            return x.mean(1)[:, :4]

        def to(self, device: str) -> "Mean":  # type: ignore[override]
            assert device == "meta:0"
            return self

    torch.save({}, tmp_path / "w.pt")
    extractor = NetworkExtractor("mean", Mean, tmp_path / "w.pt", 4, tmp_path / "cache", "meta:0")
    extractor.forward = lambda f: extractor.network(torch.from_numpy(f)).numpy()  # type: ignore[method-assign]
    rng = np.random.default_rng(1)
    features = [rng.standard_normal((n, 80)).astype(np.float32) for n in (30, 20, 30, 30, 20)]
    found = extractor.embed_features(features)
    assert sorted(Mean.shapes) == [(2, 20, 80), (3, 30, 80)]
    for f, vector in zip(features, found, strict=True):
        assert vector == pytest.approx(unit_norm(f.mean(0)[:4]), abs=1e-6)


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_missing_device_is_an_error(device: str) -> None:
    with pytest.raises(ConfigError, match=rf"device '{device}' cannot be used: .*; name an available one, or cpu"):
        load_extractor("campplus", device=device)


def test_extractor_checks_weights_and_caches_vectors(tmp_path: Path) -> None:
    import torch

    class Mean(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.abs().mean(1))

    built = []

    def build() -> torch.nn.Module:
        built.append(1)
        return Mean(80, 4)

    torch.manual_seed(0)
    torch.save(Mean(80, 4).state_dict(), tmp_path / "right.pt")
    torch.save({"weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    wave = tone(1.0).astype(np.float32)
    first = NetworkExtractor("mean", build, tmp_path / "right.pt", 4, tmp_path / "cache").embed([wave])
    second = NetworkExtractor("mean", build, tmp_path / "right.pt", 4, tmp_path / "cache").embed([wave])
    assert np.array_equal(first, second)
    assert len(built) == 1  # the second vector came from the cache
    for wrong in ("other.pt", "broken.pt"):
        with pytest.raises(ModelError, match=f"{wrong}: not weights of mean"):
            NetworkExtractor("mean", build, tmp_path / wrong, 4, tmp_path / "cache").embed([wave])


class Mean(torch.nn.Linear):
    """A network of one layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.abs().mean(1))


def network_of(folder: Path, built: list[int], cache: Path) -> NetworkExtractor:
    torch.manual_seed(0)
    torch.save(Mean(80, 4).state_dict(), folder / "mean.pt")

    def build() -> torch.nn.Module:
        built.append(1)
        return Mean(80, 4)

    return NetworkExtractor("mean", build, folder / "mean.pt", 4, cache)


def test_the_cache_changes_no_bytes(tmp_path: Path) -> None:
    """Waves or features, with and without entries, damaged ones, and an unwritable folder."""
    waves = [tone(0.5 + 0.1 * i, seed=i).astype(np.float32) for i in range(5)]
    built: list[int] = []
    (tmp_path / "file").write_bytes(b"")
    plain = network_of(tmp_path, built, tmp_path / "file").embed(waves)
    assert network_of(tmp_path, built, tmp_path / "cache").embed(waves).tobytes() == plain.tobytes()
    assert len(built) == 2
    again = network_of(tmp_path, built, tmp_path / "cache")
    assert again.embed(waves).tobytes() == plain.tobytes()
    assert len(built) == 2  # all came from the cache
    features = [log_mel(w) for w in waves]
    for _ in range(2):  # kept by their own hash
        assert network_of(tmp_path, built, tmp_path / "cache").embed_features(features).tobytes() == plain.tobytes()
    assert len(built) == 3
    for path in (tmp_path / "cache").rglob("*.vector"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    assert network_of(tmp_path, built, tmp_path / "cache").embed(waves).tobytes() == plain.tobytes()
    assert len(built) == 4
    assert network_of(tmp_path, built, tmp_path / "cache").embed(waves).tobytes() == plain.tobytes()
    assert len(built) == 4  # damaged entries were written again
    assert again.embed_features([]).shape == (0, 4)


def test_vectors_of_other_numbers_of_threads_are_not_mixed(tmp_path: Path) -> None:
    """Their sums are in another order: packing takes one thread, other commands take all."""
    built: list[int] = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            network_of(tmp_path, built, tmp_path / "cache").embed([WAVE])
    finally:
        torch.set_num_threads(before)
    assert len(built) == 2


def test_features_and_norms_of_invalid_input_are_errors() -> None:
    assert log_mel(tone(0.5).astype(np.float32)).shape == (48, 80)
    with pytest.raises(SpeakerError, match="too short"):
        log_mel(np.zeros(1000, np.float32))
    for bad in ([0.0, 0.0], [np.nan, 1.0]):
        with pytest.raises(SpeakerError, match="zero or not finite"):
            unit_norm(np.array([bad]))


def test_campplus_separates_real_voices(tmp_path: Path) -> None:
    """Six persons, two each in French, Spanish and Mandarin: pairs of clips of the same and of different voices."""
    from benchmarks.speakers import cosines, read_voices, summary
    from shards.corpora import packaged_speech as packaged
    from shards.weights.fetch import fetch_debian

    cache = package_cache()
    weights = campplus.published_weights(cache)
    extractor = load_extractor("campplus", checkpoint=weights, cache=cache)
    assert (extractor.id, extractor.dim) == ("campplus_cn_en_common", 192)
    voices = [v for v in packaged.VOICES if v.language in ("fr", "es", "zh")]
    folders = fetch_debian([p for p in packaged.PACKAGES if p.name in {v.package for v in voices}], cache)
    recordings: list[Recording] = []
    for voice in voices:
        files = packaged._files(folders[voice.package] / "usr/share" / voice.folder, voice)
        made = (packaged._make((t, tmp_path))[0] for t in packaged._prompt_tasks(voice, files, {}, set(), Counter()))
        recordings += islice((r for r in made if r is not None and 2.0 < (r.duration or 0) < 5.0), 4)
    speakers = [SpeakerInfo(v.speaker, packaged.CORPUS, v.language, v.gender, v.person) for v in voices]
    write_manifest(tmp_path, recordings, speakers, {})
    found = cosines(read_voices(Enroller([tmp_path], extractor), 4))
    assert [len(found[k]) for k in ("same voice", "other person, same language")] == [6 * 6, 3 * 16]
    figures = summary(found)
    assert figures["mean_same"] > 0.6
    assert figures["mean_different"] < 0.3
    assert figures["eer_same_language_percent"] <= 5.0
    assert figures["eer_other_language_percent"] <= 5.0
    others = np.concatenate([found[k] for k in found if k.startswith("other")])
    assert np.mean(others < SAME_PERSON_COSINE) > 0.95  # the threshold for unknown persons
