"""`speakerlm-transcribe --ui`: a web page to upload or record, enrol people, and follow the transcript.

Gradio serves it (extra ``ui``). Turns appear chunk by chunk, in a colour for each speaker; a click on one plays it. The
files for download are those of the command line; after a stop, the page offers the transcript so far. Nothing leaves
the machine: no analytics, no remote fonts; recordings and transcripts are removed when it ends, or after a day.
"""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.transcribe.audio_stream import seconds_of
from pipeline.transcribe.outputs import clock, write_all
from pipeline.transcribe.transcriber import Transcriber
from pipeline.transcribe.transcript import Transcript
from shards.dataset.pages import colour, palette_css
from shards.errors import ConfigError, SpeakerLMError

MOST_PEOPLE = 8
HOUR, DAY = 3600, 86400  # interval of removing files, and their age; seconds

STYLE = (
    palette_css(".turns")
    + """
.turns {max-height: 60vh; overflow-y: auto; display: flex; flex-direction: column; gap: .35rem}
.turn {display: grid; grid-template-columns: 4.2rem 7rem 1fr; gap: .6rem; text-align: left; width: 100%;
  padding: .45rem .6rem; border: 0; border-left: 4px solid var(--who); border-radius: 4px; cursor: pointer;
  background: color-mix(in srgb, var(--who) 7%, transparent); font: inherit; color: inherit}
.turn:hover, .turn:focus-visible {background: color-mix(in srgb, var(--who) 16%, transparent)}
.turn time {opacity: .7; font-variant-numeric: tabular-nums}
.turn b {color: var(--who); overflow-wrap: anywhere}
.turn span {overflow-wrap: anywhere}
#player {width: 100%}
.status {min-height: 1.5rem} .warning {color: #a15c00}
@media (max-width: 600px) {.turn {grid-template-columns: 4.2rem 1fr} .turn span {grid-column: 1 / -1}}
"""
)

# A click on a turn plays it in the page's player. One listener for all turns, present and future.
SCRIPT = """
() => {
  let stop = null;
  document.addEventListener("click", (event) => {
    const turn = event.target.closest(".turn");
    const player = document.querySelector("#player");
    if (!turn || !player) return;
    const end = Number(turn.dataset.end);
    if (stop) player.removeEventListener("timeupdate", stop);
    stop = () => { if (player.currentTime >= end) { player.pause(); player.removeEventListener("timeupdate", stop); } };
    player.addEventListener("timeupdate", stop);
    player.currentTime = Number(turn.dataset.start);
    player.play();
  });
}
"""


def serve(transcriber: Transcriber, port: int = 7860, host: str = "127.0.0.1", block: bool = True) -> int:
    """Serve the page until it is interrupted.

    Raises:
        ConfigError: Gradio is not installed, or the port is in use.
    """
    page = build(transcriber)
    try:
        page.queue().launch(
            server_name=host, server_port=port, share=False, prevent_thread_lock=not block, css=STYLE, js=SCRIPT,
            footer_links=[],
        )  # fmt: skip
    except OSError as e:
        raise ConfigError(f"cannot serve the page on port {port}: {e}; choose another --port") from e
    return 0


def build(transcriber: Transcriber) -> Any:
    """Build the page.

    Raises:
        ConfigError: Gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr
    except ImportError as e:
        raise ConfigError("the page needs Gradio: pip install 'speakerlm-pretrain[ui]'") from e

    results = tempfile.TemporaryDirectory(prefix="speakerlm-page-")  # removed with the page
    with gr.Blocks(title="SpeakerLM", analytics_enabled=False, delete_cache=(HOUR, DAY)) as page:
        gr.Markdown("# Who said what")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                audio = gr.Audio(
                    label="Recording", sources=["upload", "microphone"], type="filepath", elem_id="audio", buttons=[]
                )
                with gr.Accordion("People", open=True):
                    gr.Markdown("A name and 2–10 s of the voice. Leave it empty to call them Speaker 1, 2, …")
                    count = gr.State(1)
                    people = _people(gr, count)
                    more = gr.Button("Add a person", size="sm", elem_id="more")
                with gr.Row():
                    start = gr.Button("Transcribe", variant="primary", elem_id="start")
                    stop = gr.Button("Stop", elem_id="stop")
            with gr.Column(scale=3, min_width=300):
                status = gr.HTML("<div class='status'>Give a recording.</div>", elem_id="status")
                player = gr.HTML("", elem_id="player-box")
                turns = gr.HTML("", elem_id="turns")
                files = gr.File(label="Download", file_count="multiple", interactive=False, elem_id="files")
        more.click(lambda n: min(n + 1, MOST_PEOPLE), count, count)
        rows = [part for pair in people for part in pair[1:]]
        count.change(lambda n: [gr.update(visible=i < n) for i in range(MOST_PEOPLE)], count, [p[0] for p in people])

        so_far = gr.State(None)

        def work(path: str | None, *given: str | None) -> Iterator[tuple[Any, ...]]:
            yield from _work(transcriber, path, given, Path(results.name))

        def stopped(transcript: Transcript | None) -> tuple[str, list[str] | None]:
            return _stopped(transcript, Path(results.name))

        shown = [status, player, turns, files, so_far]
        running = start.click(work, [audio, *rows], shown, show_progress="hidden")
        stop.click(stopped, so_far, [status, files], cancels=[running])
    return page


def _people(gr: Any, count: Any) -> list[tuple[Any, Any, Any]]:
    """Return (group, name, clip) for as many people as the page takes; only the first is shown."""
    rows = []
    for i in range(MOST_PEOPLE):
        with gr.Group(visible=i < count.value) as group:
            name = gr.Textbox(label=f"Name {i + 1}", max_lines=1, elem_id=f"name-{i}")
            clip = gr.Audio(
                label="Voice", sources=["upload", "microphone"], type="filepath", elem_id=f"voice-{i}", buttons=[]
            )  # fmt: skip
        rows.append((group, name, clip))
    return rows


def _work(
    transcriber: Transcriber, path: str | None, given: Sequence[str | None], results: Path
) -> Iterator[tuple[str, str, str, list[str] | None, Transcript | None]]:
    """Yield (status, player, turns, files) after each chunk, and the transcript so far."""
    if not path:
        yield _status("Give a recording first.", bad=True), "", "", None, None
        return
    try:
        player = f"<audio id='player' controls preload='auto' src='/gradio_api/file={_quoted(path)}'></audio>"
        yield _status("Listening to the voices …"), player, "", None, None
        pairs = list(zip(given[::2], given[1::2], strict=True))
        if half := [n or "a clip without a name" for n, c in pairs if bool(n and n.strip()) != bool(c)]:
            yield _status(f"{half[0]}: a person needs a name and a clip.", bad=True), player, "", None, None
            return
        people = transcriber.enrol([(n.strip(), c) for n, c in pairs if n and c])
        total = seconds_of(Path(path))
        transcript = Transcript(path, transcriber.model)
        yield _status("Listening …"), player, "", None, None
        for transcript in transcriber.stream(path, people):
            heard = f"{clock(transcript.seconds)} of {clock(total)}" if total else clock(transcript.seconds)
            status = _status(f"{heard} heard, {len(transcript.turns)} turns")
            yield status, player, turns_html(transcript), None, transcript
    except SpeakerLMError as e:
        yield _status(str(e), bad=True), "", "", None, None
        return
    done = f"Done: {len(transcript.turns)} turns of {len(transcript.speakers)} speakers. Times are estimates."
    faults = [f"The recording breaks off: {transcript.error}"] if transcript.error else []
    status = _status(done, [*faults, *transcript.warnings])
    yield status, player, turns_html(transcript), _files(transcript, results), None


def _stopped(transcript: Transcript | None, results: Path) -> tuple[str, list[str] | None]:
    """Return (status, files) of the transcript so far."""
    if transcript is None:
        return _status("Stopped."), None
    heard = f"Stopped after {clock(transcript.seconds)}: {len(transcript.turns)} turns. Times are estimates."
    cut = replace(transcript, error=f"stopped after {transcript.seconds:.1f} s")
    return _status(heard), _files(cut, results)


def _files(transcript: Transcript, results: Path) -> list[str]:
    """Write the files for download into a new folder."""
    folder = Path(tempfile.mkdtemp(dir=results))
    return [str(p) for p in write_all(transcript, folder)]


def turns_html(transcript: Transcript) -> str:
    """Return turns as buttons that hold their times."""
    colours = {name: colour(i) for i, name in enumerate(transcript.speakers)}
    rows = []
    for t in transcript.turns:
        shade = colours[t.speaker] if t.speaker else "#777777"
        rows.append(
            f"<button class='turn' style='--who:{shade}' data-start='{t.start}' data-end='{t.end}'>"
            f"<time>{clock(t.start)}</time><b>{html.escape(t.speaker or '?')}</b>"
            f"<span>{html.escape(t.text)}</span></button>"
        )
    return f"<div class='turns' aria-live='polite'>{''.join(rows)}</div>"


def _status(text: str, warnings: Sequence[str] = (), bad: bool = False) -> str:
    lines = [f"<div class='status{' warning' if bad else ''}' role='status'>{html.escape(text)}</div>"]
    lines += [f"<div class='warning'>{html.escape(w)}</div>" for w in warnings]
    return "".join(lines)


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return html.escape(quote(path), quote=True)
