"""The part of a model card that says how to use the folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TRANSCRIBE = """```python
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained("FOLDER", trust_remote_code=True)
model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True).eval()
transcript = model.transcribe("meeting.wav", ENROLprocessor=processor)
for turn in transcript.turns:  # times are estimated
    print(f"{turn.start:.1f}-{turn.end:.1f} s {turn.speaker}: {turn.text}")
```"""
ABOUT_TRANSCRIBE = """\
A recording of any length, rate and number of channels is cut in pauses into chunks, by default `seconds=(40, 50)`; make
them as long as the training clips (below). Also as a pipeline:
`transformers.pipeline(model="FOLDER", trust_remote_code=True)` gives a list of dicts for the same arguments."""
VECTORS = """```python
import soundfile
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained("FOLDER", trust_remote_code=True)
model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True).eval()
mike = processor.enrol(["mike.wav"])  # clips of one person are averaged; or samples and their rate
mike.save("mike.npz")  # transcribe(…, enrol={"Mike": "mike.npz"}) takes the file
wave, rate = soundfile.read("clip.wav", dtype="float32")  # 16 kHz, one channel, as long as the training clips
inputs = processor(wave, registered={"Mike": mike}, sampling_rate=rate)  # or registered=None: spk0, spk1
print(processor.batch_decode(model.generate(**inputs, max_new_tokens=1024))[0])
```"""
WORDS = """```python
import soundfile
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained("FOLDER", trust_remote_code=True)
model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True).eval()
wave, rate = soundfile.read("clip.wav", dtype="float32")  # 16 kHz, one channel, as long as the training clips
inputs = processor(wave, ASKEDsampling_rate=rate)
print(processor.batch_decode(model.generate(**inputs, max_new_tokens=1024))[0])
```"""
REGISTERING = """\
A speaker is registered by one vector of {dim} numbers, made by **{extractor}** from 2–10 s clips of that person's
speech, averaged and brought to unit norm. {carried} Vectors of any other extractor mean nothing to this model; those of
`enrol` say what made them, and are refused if it was another one. `mode="asr"` asks for the words alone."""
CARRIED = "This folder carries it (`{weights}`, {licence}, sha256 `{sha256}`)."
NOT_CARRIED = (
    "This folder does not carry its weights (sha256 `{sha256}`): pass them as `processor.enrol(…, weights=FILE)`."
)
NO_CODE = (
    "This folder carries neither its code nor its weights: make vectors with it, and pass arrays in place of files."
)


def usage(name: str, dim: int, extractor: str, registers: bool, enrolment: Mapping[str, Any]) -> str:
    """Return Markdown with code for transcribing and for a single clip.

    Args:
        name: of the folder.
        dim: width of a speaker vector.
        registers: the model was trained to read registered names.
        enrolment: what the folder carries, see :func:`pipeline.export.carry.carry`.
    """
    clips = bool(enrolment.get("weights"))
    named = 'enrol={"Mike": "mike.wav", "Lucy": "lucy.wav"}, ' if clips else 'naming="none", ' * registers
    single = VECTORS if clips else WORDS.replace("ASKED", "" if registers else 'mode="asr", ')
    parts = [TRANSCRIBE.replace("ENROL", named), ABOUT_TRANSCRIBE, single]
    if registers:
        if clips:
            carried = CARRIED.format(**enrolment)
        elif enrolment.get("network"):
            carried = NOT_CARRIED.format(sha256=enrolment.get("sha256", "unknown"))
        else:
            carried = NO_CODE
        parts.append(REGISTERING.format(dim=dim, extractor=extractor, carried=carried))
    return "\n\n".join(parts).replace("FOLDER", name)
