"""Real speech from Debian packages: telephone prompts and syllables of nine people in six languages.

Manifests:

============= =======================================================================================================
``digits``    the ten digits of every voice, one recording per word, with the word as text
``prompts``   all other recordings of a voice, for enrolment. Text if the package has it, else ""
``sentences`` the prompts with text of at least two words, as utterances for recognition
============= =======================================================================================================

Each voice recorded each digit once, so sets mixed from ``digits`` share takes: new conversations of known words, not
new speech. Audio is trimmed and level-normalized (:mod:`shards.sound.conditioning`) and written as FLAC. Digit files
are checked against the package's texts if it has them. Texts keep punctuation, case and digits unless ``--text`` names
another policy; annotations in brackets are removed.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shards.errors import AudioError, ManifestError
from shards.manifests.manifest import Recording, SpeakerInfo
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.text_policy import TextPolicy
from shards.sample import SAMPLE_RATE, Segment
from shards.sound.audio import encode_flac, load
from shards.sound.conditioning import condition
from shards.weights.fetch import DebianPackage, fetch_debian
from shards.workers import progress, report_killed_workers

CORPUS = "packaged-speech"
LICENCE = "several, one per voice: docs/demo-speech.md"
CORE = "1.6.1-1"
PACKAGES = [
    DebianPackage(*row)
    for row in (
        ("asterisk-core-sounds-en-g722", CORE, "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806"),
        ("asterisk-core-sounds-es-g722", CORE, "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8"),
        ("asterisk-core-sounds-fr-g722", CORE, "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0"),
        ("asterisk-core-sounds-it-g722", CORE, "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016"),
        ("asterisk-core-sounds-ru-g722", CORE, "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b"),
        ("asterisk-core-sounds-en", CORE, "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50"),
        ("asterisk-core-sounds-es", CORE, "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74"),
        ("asterisk-core-sounds-fr", CORE, "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056"),
        ("asterisk-core-sounds-it", CORE, "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b"),
        ("asterisk-core-sounds-ru", CORE, "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab"),
        (
            "asterisk-prompt-it-menardi-wav",
            "1:1.4.22+mm20110907-3.1",
            "3094530d98f8758ac275572d59624c41f60969fef883f34f4886d144f3dfeb21",
        ),
        (
            "asterisk-prompt-es-co",
            "0.20070403-2.1",
            "6702696e045514699e87dc8fb70f370717e5df91f821f7bec8dd0df1be008e83",
        ),
        (
            "asterisk-prompt-fr-armelle",
            "20070613-2.2",
            "162570b1a9b3512a98f06b89f60c7c17cf1b9b52297315adca9a4e5be728bea3",
        ),
        ("gcin-voice", "0~20170223-3", "6a0353f0294d06f7bd901bada3d5d9eec63b66c2ec029f92da3124d93d45de70"),
    )
]


@dataclass(frozen=True)
class Voice:
    """A speaker of a package. The gender is that of the package's folder name (f, m), otherwise unknown."""

    name: str
    person: str
    language: str
    gender: str | None
    package: str
    folder: str  # under /usr/share
    suffix: str  # of its audio files; for gcin the file name, which distinguishes its two speakers
    texts: str | None = None  # package whose core-sounds-LANG.txt.gz holds the texts

    @property
    def speaker(self) -> str:
        return f"{CORPUS}:{self.name}"


_SOUNDS, _CORE, _RU = "asterisk/sounds/", "asterisk-core-sounds-", "ru_RU_f_IvrvoiceRU"
VOICES = (
    Voice("en-allison", "allison", "en", "f", f"{_CORE}en-g722", f"{_SOUNDS}en_US_f_Allison", ".g722", f"{_CORE}en"),
    Voice("es-allison", "allison", "es", "f", f"{_CORE}es-g722", f"{_SOUNDS}es_MX_f_Allison", ".g722", f"{_CORE}es"),
    Voice("fr-june", "june", "fr", "f", f"{_CORE}fr-g722", f"{_SOUNDS}fr_CA_f_June", ".g722", f"{_CORE}fr"),
    Voice("it-carlo", "carlo", "it", "m", f"{_CORE}it-g722", f"{_SOUNDS}it_IT_m_Carlo", ".g722", f"{_CORE}it"),
    Voice("ru-ivrvoice", "ivrvoice", "ru", "f", f"{_CORE}ru-g722", _SOUNDS + _RU, ".g722", f"{_CORE}ru"),
    Voice("it-menardi", "menardi", "it", "f", "asterisk-prompt-it-menardi-wav", f"{_SOUNDS}it_IT_f_Menardi", ".wav"),
    Voice("es-co", "es-co", "es", None, "asterisk-prompt-es-co", f"{_SOUNDS}es", ".gsm"),
    Voice("fr-armelle", "armelle", "fr", None, "asterisk-prompt-fr-armelle", f"{_SOUNDS}fr", ".gsm"),
    Voice("zh-gcin3", "gcin3", "zh", None, "gcin-voice", "gcin-voice/ogg", "3.ogg"),
    Voice("zh-gcin5", "gcin5", "zh", None, "gcin-voice", "gcin-voice/ogg", "5.ogg"),
)
DIGITS = {
    "en": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "es": ["cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"],
    "fr": ["zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"],
    "it": ["zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove"],
    "ru": ["ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять"],
    "zh": list("零一二三四五六七八九"),
}
# gcin's folders of the Mandarin digits
SYLLABLES = ["ㄌㄧㄥ2", "ㄧ", "ㄦ4", "ㄙㄢ", "ㄙ4", "ㄨ3", "ㄌㄧㄡ4", "ㄑㄧ", "ㄅㄚ", "ㄐㄧㄡ3"]
NOT_SPEECH = re.compile(r"(ascending|descending)-2tone|beep(err)?|tt-monkeys|confbridge-(join|leave)|silence/.*")
SYLLABLES_PER_PROMPT, SYLLABLE_GAP_S = 12, 0.06


@dataclass(frozen=True)
class AudioTask:
    """A FLAC file to make from one or more source files of a voice."""

    voice: Voice
    key: str
    kind: str  # digits | prompts
    text: str
    sources: tuple[Path, ...]


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Fetch the packages into `root`, write audio under ``out/audio`` and return the three manifests."""
    return prepare_voices(VOICES, root, out, options)


def prepare_voices(voices: Sequence[Voice], root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Prepare a selection of voices, as :func:`prepare` does for all; fetches only the packages that they need."""
    needed = {v.package for v in voices} | {v.texts for v in voices}
    folders = fetch_debian([p for p in PACKAGES if p.name in needed], root)
    skipped: Counter[str] = Counter()
    tasks: list[AudioTask] = []
    for voice in voices:
        files = _files(folders[voice.package] / "usr/share" / voice.folder, voice)
        texts = read_texts(folders[voice.texts], voice.language, skipped) if voice.texts else {}
        digits = list(digit_tasks(voice, files, texts))
        tasks += digits
        tasks += _prompt_tasks(voice, files, texts, {t.sources[0] for t in digits}, skipped)
    made: dict[str, list[Recording]] = {"digits": [], "prompts": []}
    with report_killed_workers(), ProcessPoolExecutor(max(1, options.workers)) as pool:
        jobs = [(task, out / "audio") for task in tasks]
        results = progress(pool.map(_make, jobs, chunksize=16), "audio", len(jobs))
        for task, (recording, problem) in zip(tasks, results, strict=True):
            if recording is not None:
                made[task.kind].append(recording)
            elif task.kind == "digits":
                raise ManifestError(f"{task.sources[0]}: {problem}; all digits of {task.voice.name} are needed")
            else:
                skipped[f"{task.voice.name}: {problem}"] += 1
    return _manifests(voices, made, skipped, options.text or "raw")


def _manifests(
    voices: Sequence[Voice], made: dict[str, list[Recording]], skipped: Counter[str], policy: str
) -> list[Prepared]:
    speakers = [SpeakerInfo(v.speaker, CORPUS, v.language, v.gender, v.person) for v in voices]
    texts = {name: TextPolicy(policy) for name in ("digits", "prompts", "sentences")}
    made = {name: [_with_text(r, texts[name]) for r in recordings] for name, recordings in made.items()}
    sentences = [
        replace(r, key=f"sentence-{r.key}", sources=(r.key,))
        for r in made["prompts"]
        if len(r.segments[0].text.split()) > 1
    ]
    sentences = [_with_text(r, texts["sentences"]) for r in sentences]
    counts = {"skipped": dict(sorted(skipped.items()))}
    return [
        Prepared("digits", made["digits"], speakers, {"text": texts["digits"].result()}),
        Prepared("prompts", made["prompts"], speakers, {"text": texts["prompts"].result()} | counts),
        Prepared("sentences", sentences, speakers, {"text": texts["sentences"].result()}),
    ]


def _with_text(recording: Recording, policy: TextPolicy) -> Recording:
    (segment,) = recording.segments
    return replace(recording, segments=(replace(segment, text=policy(segment.text)),))


def _files(folder: Path, voice: Voice) -> dict[str, Path]:
    """Map names inside the voice's folder without suffix (for gcin the syllable) to files."""
    gcin = voice.package == "gcin-voice"
    found = {}
    for path in sorted(folder.rglob(f"*{voice.suffix}")):
        name = path.relative_to(folder)
        found[name.parts[0] if gcin else name.with_suffix("").as_posix()] = path
    if not found:
        raise ManifestError(f"{folder}: no *{voice.suffix} files; remove this folder and run the command again")
    return found


def read_texts(folder: Path, language: str, skipped: Counter[str]) -> dict[str, str]:
    """Read file name without suffix → text. Of two texts for one name the first is used."""
    path = folder / f"usr/share/doc/{folder.name.partition('_')[0]}/core-sounds-{language}.txt.gz"
    texts: dict[str, str] = {}
    for line in gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines():
        name, colon, text = line.partition(":")
        if not colon or line.startswith(";"):
            continue
        if name in texts:
            skipped[f"{path.name}: second text for one name, ignored"] += 1
        texts.setdefault(name, clean_text(text))
    return texts


def clean_text(text: str) -> str:
    """Remove annotations: a bracketed annotation alone gives ""; inside a sentence brackets keep their words."""
    text = text.strip()
    if re.fullmatch(r"\[[^]]*\]|<[^>]*>", text):
        return ""
    text = re.sub(r"\[([^]]*)\]", lambda m: m[1] if re.search(r"\w", m[1]) else "", text)
    return re.sub(r"\s+", " ", text.replace("...", " ")).strip()


def digit_tasks(voice: Voice, files: dict[str, Path], texts: dict[str, str]) -> Iterator[AudioTask]:
    """Yield the tasks of a voice's ten digits.

    Raises:
        ManifestError: a file is missing, or its text is another word.
    """
    for digit, word in enumerate(DIGITS[voice.language]):
        name = SYLLABLES[digit] if voice.language == "zh" else f"digits/{digit}"
        if name not in files:
            raise ManifestError(f"{voice.package}: {name} is missing; remove the unpacked folder and run again")
        if texts and texts[name].strip(" .").lower() != word:
            raise ManifestError(f"{voice.package}: the text of {name} is {texts[name]!r}, expected {word!r}")
        yield AudioTask(voice, f"{voice.name}-digit{digit}", "digits", word, (files[name],))


def _prompt_tasks(
    voice: Voice, files: dict[str, Path], texts: dict[str, str], digits: set[Path], skipped: Counter[str]
) -> list[AudioTask]:
    """Return tasks for all speech except the ten digits and byte-identical copies."""
    seen = {hashlib.sha256(path.read_bytes()).digest() for path in digits}
    kept: dict[str, Path] = {}
    for name, path in files.items():
        digest = hashlib.sha256(path.read_bytes()).digest()
        if NOT_SPEECH.fullmatch(name) or (name in texts and not texts[name]):
            skipped[f"{voice.name}: no speech"] += 1
        elif digest in seen:
            skipped[f"{voice.name}: a digit, or a copy of another file"] += 1
        else:
            seen.add(digest)
            kept[name] = path
    if voice.package == "gcin-voice":
        paths = list(kept.values())
        np.random.default_rng(0).shuffle(paths)
        groups = [tuple(paths[i : i + SYLLABLES_PER_PROMPT]) for i in range(0, len(paths), SYLLABLES_PER_PROMPT)]
        return [
            AudioTask(voice, f"{voice.name}-syllables{i:03d}", "prompts", "", group) for i, group in enumerate(groups)
        ]
    return [
        AudioTask(
            voice, f"{voice.name}-{re.sub(r'[^0-9A-Za-z_-]', '_', name)}", "prompts", texts.get(name, ""), (path,)
        )
        for name, path in kept.items()
    ]


def _make(job: tuple[AudioTask, Path]) -> tuple[Recording | None, str]:
    """Write a task's FLAC file; returns its recording, or None and the reason."""
    task, folder = job
    gap = np.zeros(round(SYLLABLE_GAP_S * SAMPLE_RATE), np.float32)
    try:
        parts = [condition(load(path)) for path in task.sources]
    except AudioError as error:
        return None, str(error)
    wave = np.concatenate([piece for part in parts for piece in (part, gap)][:-1])
    if len(wave) < SAMPLE_RATE // 10:
        return None, "shorter than 0.1 s"
    path = folder / task.voice.name / f"{task.key}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_flac(wave))
    seconds = len(wave) / SAMPLE_RATE
    segment = Segment(task.voice.speaker, 0.0, seconds, task.text)
    recording = Recording(
        key=task.key,
        corpus=CORPUS,
        split="all",
        session=task.key,  # prompts were recorded separately
        language=task.voice.language,
        audio=str(path.absolute()),
        segments=(segment,),
        duration=seconds,
    )
    return recording, ""
