"""Timeline of speakers as inline SVG."""

from __future__ import annotations

import html

from pipeline.evaluation.charts import COLOURS
from pipeline.evaluation.error_analysis import NO_SPEAKER, Bar, SessionAnalysis


def timeline(d: SessionAnalysis) -> str:
    """Draw one lane per speaker, reference above hypothesis."""
    bars = [*d.reference_bars, *d.hypothesis_bars]
    if not bars:
        return ""
    end = max(b.end for b in bars)
    lanes = [("reference", s) for s in dict.fromkeys(b.speaker for b in d.reference_bars)]
    lanes += [("hypothesis", s) for s in dict.fromkeys(b.speaker for b in d.hypothesis_bars)]
    colour = _colours(d)
    width, left, height = 900.0, 130.0, 17
    scale = (width - left - 10) / end if end else 1.0
    out, y = [], 2
    for k, (side, speaker) in enumerate(lanes):
        if k == 0 or side != lanes[k - 1][0]:
            label = side + (", times estimated from the alignment" if side == "hypothesis" and d.estimated else "")
            out.append(f'<text x="0" y="{y + 11}" font-weight="600">{label}</text>')
            y += height
        out.append(f'<text x="8" y="{y + 11}">{html.escape(_who(d, speaker))}</text>')
        out.append(f'<line x1="{left}" x2="{width - 10}" y1="{y + 7}" y2="{y + 7}" stroke="#e3e7ea"/>')
        for b in d.reference_bars if side == "reference" else d.hypothesis_bars:
            if b.speaker == speaker:
                fill = colour.get((side, speaker), "#7b858e")
                out.append(_rect(b, _who(d, speaker), left, scale, y, fill, side == "hypothesis"))
        y += height
    digits = 0 if end >= 10 else 1
    for i in range(6):
        x = left + i / 5 * end * scale
        anchor = "end" if i == 5 else "middle"
        out.append(f'<text x="{x:.1f}" y="{y + 12}" text-anchor="{anchor}">{i / 5 * end:.{digits}f} s</text>')
    view = f'viewBox="0 0 {width:.0f} {y + 18}"'
    return f'<div class="scroll"><svg class="time" style="min-width:560px" {view}>{"".join(out)}</svg></div>'


def _who(d: SessionAnalysis, speaker: str) -> str:
    """Return the title of a lane; without speakers one lane holds all."""
    return "all speakers" if d.score.cpcer is None and speaker == NO_SPEAKER else speaker[:16]


def _colours(d: SessionAnalysis) -> dict[tuple[str, str], str]:
    """Return one colour per reference speaker; a hypothesis speaker has that of its reference speaker."""
    names = list(dict.fromkeys(b.speaker for b in d.reference_bars))
    colour = {("reference", n): COLOURS[i % len(COLOURS)] for i, n in enumerate(names)}
    for p in d.pairs:
        if ("reference", p.reference) in colour:
            colour["hypothesis", p.hypothesis] = colour["reference", p.reference]
    return colour


def _rect(b: Bar, who: str, left: float, scale: float, y: int, colour: str, light: bool) -> str:
    x, w = left + b.start * scale, max(1.5, (b.end - b.start) * scale)
    title = html.escape(f"{who}, {b.start:.1f}–{b.end:.1f} s: {b.text[:120]}")
    opacity = 0.7 if light else 1
    return (
        f'<rect x="{x:.1f}" y="{y + 1}" width="{w:.1f}" height="12" rx="2" fill="{colour}" opacity="{opacity}">'
        f"<title>{title}</title></rect>"
    )
