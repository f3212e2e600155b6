"""Words of Speaker-Reasoner's prompts and summaries, Chinese and English.

The question of the first turn is that of the public inference script. It states no English question, no question for
the tasks of stage R1 and no wording of the summary: those are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shards.sample import FEMALE, MALE


@dataclass(frozen=True, slots=True)
class Wording:
    """All words of one language."""

    reason: str  # the question of the first turn
    observation: str  # of a later turn, if observations are numbered; {number} from 1
    transcribe: str  # the same transcript in one turn
    count: str
    genders: str
    known: str  # heads the entries of a cache
    summary: str
    gender_counts: tuple[str, str, str]  # male, female, unknown
    between: str
    overlap: str
    alone: str
    silence: str

    def summarise(self, genders: Sequence[str | None], segments: int, overlap: float) -> str:
        """Return the summary of a clip.

        Args:
            genders: one per speaker.
            segments: number of utterances.
            overlap: share of the speech with more than one speaker at a time.
        """
        if not genders:
            return self.silence
        counts = [genders.count(MALE), genders.count(FEMALE), genders.count(None)]
        of_gender = [text.format(n=n) for text, n in zip(self.gender_counts, counts, strict=True) if n]
        how = self.overlap.format(percent=round(100 * overlap)) if overlap > 0 else self.alone
        return self.summary.format(n=len(genders), genders=self.between.join(of_gender), segments=segments) + how


CHINESE = Wording(
    reason=(
        "分析这段音频，将其划分为合适的片段。对于每个片段，请逐步推导说话人ID、性别、时间戳及转录内容。"
        "现在，请先概括音频整体情况，并给出第一个片段的边界。"
    ),
    observation="当前片段作为$O_{number}$。",
    transcribe="分析这段音频，按时间顺序给出每句话的说话人ID、性别、时间戳及转录内容。",
    count="这段音频中有几位说话人？",
    genders="这段音频中有哪些说话人？请按出现顺序给出说话人ID和性别。",
    known="已知的说话人：\n",
    summary="共{n}位说话人：{genders}。共{segments}句话",
    gender_counts=("{n}位男性", "{n}位女性", "{n}位性别未知"),
    between="，",
    overlap="，约{percent}%的语音有重叠。",
    alone="，没有重叠。",
    silence="没有人说话。",
)
ENGLISH = Wording(
    reason=(
        "Analyse this audio and divide it into suitable segments. For each segment, work out speaker ID, gender, "
        "timestamps and transcript step by step. Now summarise the audio and give the bounds of the first segment."
    ),
    observation="The current segment is $O_{number}$.",
    transcribe="Analyse this audio and give speaker ID, gender, timestamps and transcript of each utterance in order.",
    count="How many speakers are in this audio?",
    genders="Which speakers are in this audio? Give speaker ID and gender in order of appearance.",
    known="Known speakers:\n",
    summary="{n} speakers: {genders}. {segments} utterances",
    gender_counts=("{n} male", "{n} female", "{n} of unknown gender"),
    between=", ",
    overlap=", about {percent}% of the speech overlaps.",
    alone=", no overlap.",
    silence="No speech.",
)


def wording(language: str) -> Wording:
    """Return the words for a language tag (``zh``, ``en-US``, ``und``); other languages are asked in English."""
    return CHINESE if language.split("-", maxsplit=1)[0].lower() in ("zh", "cmn", "yue") else ENGLISH
