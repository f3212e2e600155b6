"""An exported folder enrols people and transcribes recordings as ``speakerlm-transcribe`` does, without the project."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.decode.generate import Answer
from pipeline.export.folder import export
from pipeline.transcribe.transcriber import TranscribeOptions, Transcriber
from shards.errors import ModelError
from shards.manifests.clip_rule import rule_of
from shards.sample import SAMPLE_RATE
from tests.support.exported import PROJECT, run_outside
from tests.support.finished_runs import make_finished_run
from tests.support.speech import package_cache
from tests.support.tiny import TinyBase, model_config
from tests.support.voices import PEOPLE, enrolment, extractor, talk

SECONDS = (8.0, 12.0)
SAID = "Mike: ciao ciao\nspk1: bonjour\nLucy: oui"
SCRIPT = """
import dataclasses, warnings
import numpy as np
from transformers import AutoModel, AutoProcessor, pipeline

processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
errors = {}

def refused(what, call):
    try:
        errors[what] = f"no error: {call()}"
    except Exception as e:
        errors[what] = f"{type(e).__name__}: {e}"

absent += ["fastcrc", "kaldi_native_fbank"]
refused("packages", lambda: processor.enrol("mike.wav"))
absent[-2:] = []
exec(open("snippets.py").read())  # of the card: they make model, processor, transcript, mike and mike.npz
vector = mike
samples, rate = soundfile.read("mike.wav", dtype="float32")
stereo = np.stack([samples, samples], axis=1)
vectors = {"file": vector, "array": processor.enrol(samples, rate), "stereo": processor.enrol(stereo, rate),
           "two": processor.enrol(["mike.wav", "mike2.wav"]), "short": processor.enrol(samples[:16000], rate)}
people = {"Mike": "mike.npz", "Lucy": "lucy.wav"}
named = dict(processor=processor, seconds=SECONDS)
turns = lambda t: [dataclasses.asdict(x) for x in t.turns]
model.train()
found = {"file": turns(model.transcribe("meeting.wav", enrol=people, **named))}
trained = model.training
wave, rate = soundfile.read("meeting.wav", dtype="float32")
people["Lucy"] = np.asarray(processor.enrol("lucy.wav"))
pipe = pipeline(model=folder, trust_remote_code=True, device="cpu")
piped = pipe({"array": wave, "sampling_rate": rate}, enrol=people, seconds=SECONDS)
silence = np.zeros(16000, np.float32)
alike = model.transcribe(silence, {"Mike": vector, "Michael": vector}, sampling_rate=16000, **named).warnings
prompted = processor(samples, registered={"Mike": vector})["speaker_vectors"][0].tolist()

refused("not audio", lambda: processor.enrol("notes.txt"))
refused("missing", lambda: processor.enrol("nowhere.wav"))
refused("silence", lambda: processor.enrol(np.zeros(48000, np.float32), 16000))
refused("rate", lambda: processor.enrol(samples))
refused("impossible rate", lambda: processor.enrol(samples, 1))
refused("channels first", lambda: processor.enrol(np.zeros((200, 16000), np.float32), 16000))
refused("integers", lambda: processor.enrol(np.zeros(48000, np.int32), 16000))
refused("nothing", lambda: processor.enrol([]))
refused("other weights", lambda: processor.enrol("mike.wav", weights="notes.txt"))
other = dataclasses.replace(vector, sha256="1" * 64)
refused("vector of other weights", lambda: model.transcribe("meeting.wav", {"Mike": other}, **named))
refused("prompt of other weights", lambda: processor(samples, registered={"Mike": other}))
other = dataclasses.replace(vector, extractor="eres2netv2")
refused("vector of another extractor", lambda: model.transcribe("meeting.wav", {"Mike": other}, **named))
other = dataclasses.replace(vector, values=np.ones(8))
refused("width", lambda: model.transcribe("meeting.wav", {"Mike": other}, **named))
refused("name", lambda: model.transcribe("meeting.wav", {"Mike: ": vector}, **named))
refused("list", lambda: model.transcribe("meeting.wav", ["mike.wav"], **named))
refused("no speech asked", lambda: model.transcribe("notes.txt", **named))
refused("seconds", lambda: model.transcribe("meeting.wav", processor=processor, seconds=(5, 2)))
refused("naming", lambda: model.transcribe("meeting.wav", people, naming="none", **named))

generate = sys.modules[type(model).__module__.rpartition(".")[0] + ".generate"]
generate.ask = lambda model, tokenizer, prompts, guards: [generate.Answer(SAID, "end", 1) for _ in prompts]
found["said"] = turns(model.transcribe("meeting.wav", people, **named))
ours = sorted(n for n in sys.modules if n.split(".")[0] in absent)
print(json.dumps({"vectors": {n: [v.values.tolist(), v.extractor, v.sha256, v.warnings] for n, v in vectors.items()},
                  "found": found, "trained": trained, "piped": piped, "task": pipe.task, "alike": alike,
                  "errors": errors, "ours": ours, "prompted": prompted, "card": len(transcript.turns)}))
"""


@pytest.fixture(scope="module")
def registering(base: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of stage 4 that was trained with CAM++'s vectors."""
    cfg = replace(model_config(base, speaker_dim=192), extractor="campplus_cn_en_common")
    folder = tmp_path_factory.mktemp("runs")
    return make_finished_run(folder / "run", cfg, stage=4, init_from=str(folder / "stage3"))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conversation of two people and clips of them."""
    folder = tmp_path_factory.mktemp("sounds")
    package_cache()
    wave, _ = talk(PEOPLE[:2], 4)
    soundfile.write(folder / "meeting.wav", wave, SAMPLE_RATE, subtype="FLOAT")
    for name, person, first in (("mike", PEOPLE[0], 0), ("mike2", PEOPLE[0], 1), ("lucy", PEOPLE[1], 0)):
        enrolment(folder, person, first).rename(folder / f"{name}.wav")
    (folder / "notes.txt").write_text("no audio")
    shutil.copy(folder / "lucy.wav", folder / "clip.wav")
    return folder


@pytest.fixture(scope="module")
def card(registering: Path, sounds: Path) -> str:
    """The card of the exported folder."""
    return (export(registering, sounds / "speaker-lm", merge=True) / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def outside(card: str, sounds: Path) -> Any:
    """Results of a process without the project."""
    snippets = re.findall("```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 2
    (sounds / "snippets.py").write_text("\n".join(snippets))
    script = SCRIPT.replace("SECONDS", str(SECONDS)).replace("SAID", repr(SAID))
    return run_outside(script, sounds / "speaker-lm", sounds, f"{PROJECT} peft")


@pytest.fixture(scope="module")
def inside(registering: Path) -> Transcriber:
    """The project's own transcriber of the run, as ``speakerlm-transcribe --seconds 8-12`` makes it."""
    return Transcriber.load(registering, TranscribeOptions(rule_of(*SECONDS), batch=4), cache=package_cache())


def expected(transcriber: Transcriber, sounds: Path) -> list[dict[str, Any]]:
    people = [("Mike", sounds / "mike.wav"), ("Lucy", sounds / "lucy.wav")]
    transcript = transcriber.transcribe(sounds / "meeting.wav", people)
    assert len(transcript.chunks) > 1
    return json.loads(json.dumps([asdict(t) for t in transcript.turns]))


def test_the_snippets_of_the_card_run(card: str, outside: Any) -> None:
    assert outside["card"] > 0
    for stated in ('enrol={"Mike": "mike.wav", "Lucy": "lucy.wav"}', "speaker_extractor.pt", extractor().sha256):
        assert stated in card


def test_turns_are_those_of_the_transcribe_tool(outside: Any, inside: Transcriber, sounds: Path) -> None:
    turns = expected(inside, sounds)
    assert outside["ours"] == []
    assert len({t["text"] for t in turns}) > 1
    assert outside["found"]["file"] == turns
    assert outside["trained"]  # the mode of the model is restored


def test_names_and_times_are_those_of_the_transcribe_tool(outside: Any, inside: Transcriber, sounds: Path) -> None:
    """The model's answer is the same everywhere, so that speakers are named by the prompt and by voice."""
    said = Transcriber(
        lambda prompts: [Answer(SAID, "end", 1) for _ in prompts],
        extractor,
        inside.options,
        model=inside.model,
        cache=package_cache(),
    )
    turns = expected(said, sounds)
    assert outside["found"]["said"] == turns
    assert {t["speaker"] for t in turns} >= {"Mike", "Lucy"}
    assert len({t["speaker"] for t in turns}) == 3


def test_the_pipeline_gives_the_same_turns(outside: Any) -> None:
    keys = ("speaker", "text", "start", "end")
    assert outside["task"] == "speaker-attributed-transcription"
    assert outside["piped"] == [{k: t[k] for k in keys} for t in outside["found"]["file"]]


def test_vectors_are_the_means_that_packing_makes(outside: Any, inside: Transcriber, sounds: Path) -> None:
    own = inside.enrol([("Mike", sounds / "mike.wav"), ("Two", sounds / "mike.wav"), ("Two", sounds / "mike2.wav")])
    vectors = {name: np.array(v[0]) for name, v in outside["vectors"].items()}
    for name, ours in (("file", 0), ("array", 0), ("stereo", 0), ("two", 1)):
        assert vectors[name] == pytest.approx(own.vectors[ours], abs=1e-6)
    one = inside.enrol([("Mike", sounds / "mike.wav"), ("Other", sounds / "mike2.wav")]).vectors
    assert abs(one[0] - one[1]).max() > 0.01
    made = {(v[1], v[2]) for v in outside["vectors"].values()}
    assert made == {("campplus_cn_en_common", extractor().sha256)}
    assert outside["prompted"] == pytest.approx(vectors["file"], abs=1e-6)
    assert "s of speech for the speaker; 2–10 s make a better vector" in outside["vectors"]["short"][3][0]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "packages",
            "ConfigError: enrolling speakers needs fastcrc, kaldi-native-fbank: pip install fastcrc kaldi",
        ),
        ("not audio", "AudioError: notes.txt"),
        ("missing", "AudioError: nowhere.wav: no such file"),
        ("silence", "SpeakerError: clip 1 of 1: no speech to enrol"),
        ("rate", "AudioError: clip 1 of 1: the rate of samples is unknown: give sampling_rate"),
        ("impossible rate", "AudioError: clip 1 of 1: a rate of 1 Hz"),
        ("channels first", "AudioError: clip 1 of 1: samples of shape (200, 16000)"),
        ("integers", "AudioError: clip 1 of 1: samples of type int32"),
        ("nothing", "SpeakerError: no clip is given"),
        ("other weights", "SpeakerError: notes.txt has the sha256"),
        ("vector of other weights", "SpeakerError: the vector of Mike was made with weights 1111"),
        ("prompt of other weights", "SpeakerError: the vector of Mike was made with weights 1111"),
        ("vector of another extractor", "SpeakerError: the vector of Mike was made with extractor eres2netv2"),
        ("width", "SpeakerError: Mike: a speaker vector of this model has 192 numbers"),
        ("name", "ConfigError: invalid name 'Mike: '"),
        ("list", "ConfigError: enrol is a mapping of names, such as {'Mike': 'mike.wav'}, not a list"),
        ("no speech asked", "AudioError: notes.txt"),
        ("seconds", "ConfigError: clips of 5-2 s"),
        ("naming", "ConfigError: people are enrolled, but naming is 'none'"),
    ],
)
def test_bad_input_is_refused(outside: Any, what: str, message: str) -> None:
    assert outside["errors"][what].startswith(message)


def test_two_names_that_sound_alike_are_warned_of(outside: Any) -> None:
    assert "Mike and Michael sound like one person (1.00)" in outside["alike"]


def test_an_unknown_extractor_is_not_carried_and_enrolment_says_so(run: Path, base: TinyBase, tmp_path: Path) -> None:
    from pipeline.transcribe.exported_speakerlm import SpeakerLMProcessor
    from shards.errors import ConfigError

    cfg = model_config(base)
    unknown = make_finished_run(tmp_path / "run", cfg, stage=4, init_from=str(run))
    processor = SpeakerLMProcessor.from_pretrained(export(unknown, tmp_path / "out"))
    with pytest.raises(ConfigError, match="'random' is not in this folder"):
        processor.speaker_model()


def test_data_of_other_weights_are_refused(tmp_path: Path) -> None:
    from pipeline.export.carry import carry

    package_cache()
    with pytest.raises(ModelError, match="were made with weights 0000"):
        carry(tmp_path, "campplus_cn_en_common", ["0" * 64])
