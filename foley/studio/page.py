"""The page of `foley studio`: a video and a prompt in, takes side by side, one of them kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from os.path import relpath
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component
from gradio.themes import Base

from foley.studio.players import frame, title
from foley.studio.workshop import OnStep, Take, Workshop
from model.presets.settings import ModelError
from pipeline.generation.dub import Dubbed
from pipeline.generation.options import MAX_SEED, GenerateOptions
from pipeline.paths import path_of
from warehouse.errors import FoleyError

T = TypeVar("T")
NEWEST = "newest of the home, else shipped"
MOST_TAKES = 6
FIXED = ("preset", "weights", "settings", "device", "low_memory")  # options of the studio itself
STYLE = """
.gradio-container { max-width: 1320px !important; width: 100%; margin: 0 auto; }
.gradio-container main { width: 100%; }
iframe.takes { width: 100%; border: 0; min-height: 240px; }
#redo { align-self: center; }
.hint { padding: 48px 24px; text-align: center; opacity: 0.6; }
footer { display: none !important; }
"""
#: The frame of the players tells its height, which take is heard, and what is dragged over.
SCRIPT = """<script>
window.addEventListener("message", (event) => {
  const frame = document.querySelector("iframe.takes");
  if (!frame || event.source !== frame.contentWindow) return;
  if (event.data.height) {
    if (!frame.style.height && innerWidth < 768) frame.scrollIntoView({ behavior: "smooth" });
    frame.style.height = `${event.data.height + 4}px`;
  }
  for (const name of ["from", "to"]) if (name in event.data) {
    const input = document.querySelector(`#${name} input`);
    input.value = event.data[name].toFixed(2);
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }
  if (event.data.take) for (const radio of document.querySelectorAll("#take input"))
    if (radio.value === event.data.take) radio.click();
});
</script>"""
HINT = (
    "<p class='hint'>Drop a video, say what is to be heard, and make a few takes. They appear here "
    "over the same picture: space plays, 1 to 7 chooses what is heard.</p>"
)
PROGRESS = gr.Progress()
THEME = Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def build(workshop: Workshop) -> gr.Blocks:
    """The page, whose sounds this workshop makes."""
    with gr.Blocks(title="foley studio", analytics_enabled=False) as page:
        gr.Markdown("# foley studio\nSound in time with the picture, made on this machine.")
        with gr.Tab("One video"):
            _one_video(workshop)
        with gr.Tab("Many videos"):
            _many_videos(workshop)
    page.queue(default_concurrency_limit=4)
    return page


def _one_video(workshop: Workshop) -> None:
    takes, stop = gr.State([]), gr.State(None)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            video = gr.Video(label="Video", sources=["upload"], height=220)
            prompt = gr.Textbox(
                label="What is to be heard", info="Empty: the picture alone decides", lines=2
            )
            count = gr.Slider(1, MOST_TAKES, 2, step=1, label="Takes")
            asked = [prompt, count, *_settings(workshop)]
            with gr.Row():
                make = gr.Button("Make sound", variant="primary", elem_id="make")
                halt = gr.Button("Stop", elem_id="stop")
        with gr.Column(scale=5, min_width=420):
            players = gr.HTML(HINT, elem_id="players")
            notes = gr.Markdown(elem_id="notes")
            with gr.Column(visible=False) as keeping:
                choice = gr.Radio([], label="Take", elem_id="take")
                gr.Markdown("Part of it anew: drag over a waveform. Outside not a bit changes.")
                with gr.Row():
                    start = gr.Number(0, label="From (s)", elem_id="from", minimum=0, precision=2)
                    end = gr.Number(1, label="To (s)", elem_id="to", minimum=0, precision=2)
                    redo = gr.Button("Make this stretch anew", elem_id="redo")
                keep = gr.Button("Keep this take", variant="primary", elem_id="keep")
                files = gr.File(
                    label="Downloads", file_count="multiple", elem_id="files", visible=False
                )

    shown = [takes, stop, players, notes, keeping, choice, files]
    work = _OneVideo(workshop)
    gr.on([make.click, prompt.submit], work.make, [video, *asked], shown)
    redo.click(work.redo, [takes, choice, start, end, *asked], shown)
    halt.click(_stop, [stop], None, queue=False)
    keep.click(work.keep, [takes, choice], files)


class _OneVideo:
    """What the buttons do; each gives new values of `shown`."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop

    def make(
        self, path: str | None, *values: Any, progress: gr.Progress = PROGRESS
    ) -> Iterator[object]:
        """Takes of a video."""
        if path is None:
            raise _error("Drop a video first.")
        yield from self._work([], Path(path), _options(self.workshop, *values), progress)

    def redo(
        self, made: list[Take], name: str, *values: Any, progress: gr.Progress = PROGRESS
    ) -> Iterator[object]:
        """Takes of which a stretch is new: `values` begin with its times."""
        start, end, *asked = values
        if start is None or end is None:
            raise _error("Say from when to when: drag over a waveform.")
        given = {
            "redo": f"{start:g}-{end:g}",
            "seed": max(take.seed for take in made) + 1,
            **dict.fromkeys(("without", "loudness")),  # which are of whole sounds
        }
        options = _options(self.workshop, *asked).model_dump() | given
        yield from self._work(
            made, _named(made, name), _said(lambda: GenerateOptions.of(**options)), progress
        )

    def keep(self, made: Sequence[Take], name: str) -> gr.File:
        """The files of a take."""
        paths = _said(lambda: self.workshop.keep(_named(made, name)))
        return gr.File([str(path) for path in paths], visible=True)

    def _work(
        self, before: list[Take], of: Path | Take, options: GenerateOptions, progress: gr.Progress
    ) -> Iterator[object]:
        event, kept = Event(), gr.skip()
        yield kept, event, kept, kept, kept, kept, kept
        made, lines = _said(lambda: self.workshop.takes(of, options, _on(progress), event))
        every = [*before, *made]
        html = _said(lambda: frame(every, made[0], self.workshop.folder))
        choice = gr.Radio([title(take) for take in every], value=title(made[0]))
        yield (
            every,
            event,
            html,
            "\n\n".join(lines),
            gr.Column(visible=True),
            choice,
            gr.File(None, visible=False),
        )


def _many_videos(workshop: Workshop) -> None:
    stop = gr.State(None)
    gr.Markdown(
        "A folder of videos, or a CSV with the columns video, prompt, seed, negative_prompt, cues, "
        "out. What is there already is not made again."
    )
    with gr.Row():
        source = gr.Textbox(label="Folder or CSV on this machine", elem_id="source")
        out = gr.Textbox(label="Folder for the results", elem_id="out")
    prompt = gr.Textbox(label="What is to be heard, where a table does not say it")
    count = gr.Slider(1, MOST_TAKES, 1, step=1, label="Takes")
    stems = gr.Checkbox(label="Stems: the new sounds by themselves beside the videos, too")
    asked = [prompt, count, *_settings(workshop)]
    with gr.Row():
        make = gr.Button("Make sounds", variant="primary", elem_id="make-many")
        halt = gr.Button("Stop")
    names = ["File", "Seconds", "State"]
    widths: list[int | str] = ["40%", "22%", "38%"]
    table = gr.Dataframe(
        headers=names, interactive=False, elem_id="states", column_widths=widths, wrap=True
    )
    made, pack = gr.State([]), gr.Button("All files as one .zip", elem_id="pack")
    file = gr.File(label="Download", elem_id="packed", visible=False)

    def run(
        folder: str, to: str, stem: bool, *values: Any, progress: gr.Progress = PROGRESS
    ) -> Iterator[object]:
        if not folder.strip() or not to.strip():
            raise _error("Say which folder or CSV, and where the results go.")
        # words of a table, or of a file's name, where the page has none
        given = {"stem": stem} | ({} if values[0] else {"prompt": None})
        options, event = _options(workshop, *values).model_copy(update=given), Event()
        yield {stop: event, made: [], file: gr.File(None, visible=False)}
        videos, target = (_said(partial(path_of, text.strip())) for text in (folder, to))
        videos, target = videos.expanduser(), target.expanduser()
        rows: list[list[object]] = []
        done: list[Path] = []
        for sound in _each(workshop.batch(videos, target, options, _on(progress), event)):
            state = sound.error or ("there already" if sound.before else "made")
            rows.append([relpath(sound.request.out, target), round(sound.seconds, 2), state])
            done += [] if sound.error else [sound.request.out]
            yield {table: rows, made: done}

    gr.on([make.click], run, [source, out, stems, *asked], [stop, table, made, file])
    halt.click(_stop, [stop], None, queue=False)
    pack.click(partial(_packed, workshop), [made, out], file)


def _packed(workshop: Workshop, sounds: Sequence[Path], to: str) -> gr.File:
    """One file of all sounds of a batch to download."""
    if not sounds:
        raise _error("Make sounds first.")
    name = Path(to.strip()).name or "sounds"
    return gr.File(str(_said(lambda: workshop.packed(sounds, name))), visible=True)


def _settings(workshop: Workshop) -> list[Component]:
    """Fields that both pages have, in the order in which `_options` takes them."""
    known = workshop.options.sampling_preset().scores.tagger is not None
    told = "Where it is heard, the sound is made again with the picture hidden there"
    without = gr.CheckboxGroup(
        ["speech", "music"],
        label="Without",
        info=told if known else "The preset has no tagger that hears them",
        interactive=known,
    )
    with gr.Accordion("More", open=False):
        negative = gr.Textbox(label="What is not to be heard")
        bridges = [NEWEST, "shipped", *workshop.checkpoints()]
        bridge = gr.Dropdown(bridges, value=NEWEST, label="Bridge", allow_custom_value=True)
        guidance = gr.Number(None, label="Guidance", info="Empty: the preset's", minimum=0)
        steps = gr.Number(None, label="Steps", info="Empty: the preset's", precision=0, minimum=1)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
        cues = gr.Textbox(
            label="Prompts over time", placeholder="0-3.2 footsteps on gravel; 3.2-6 a door slams"
        )
        loudness = gr.Number(None, label="Loudness (LUFS)", info="Empty: as it comes", maximum=0)
    return [without, negative, bridge, guidance, steps, seed, cues, loudness]


def _options(workshop: Workshop, *values: Any) -> GenerateOptions:
    prompt, takes, without, negative, bridge, guidance, steps, seed, cues, loudness = values
    given = {
        "prompt": prompt or "",
        "takes": int(takes or 1),
        "without": ",".join(name for name in ("speech", "music") if name in (without or ()))
        or None,
        "negative_prompt": negative or None,
        "checkpoint": None if bridge == NEWEST else bridge,
        "cfg": guidance,
        "steps": steps and int(steps),
        "seed": int(seed or 0),
        "cues": cues or None,
        "loudness": loudness,
    }
    fixed = workshop.options.model_dump(include=set(FIXED))
    return _said(lambda: GenerateOptions.of(**fixed, **given))


def _named(takes: Sequence[Take], name: str) -> Take:
    return next(take for take in takes if title(take) == name)


def _said(work: Callable[[], T]) -> T:
    """What `work` gives; what a person can mend is shown on the page in one line."""
    try:
        return work()
    except (FoleyError, ModelError) as error:
        raise _error(str(error), None) from None


def _error(line: str, seconds: float | None = 10) -> gr.Error:
    """What the page shows for so long, or until it is closed; the log has no trace of it."""
    return gr.Error(line, duration=seconds, print_exception=False)


def _each(sounds: Iterator[Dubbed]) -> Iterator[Dubbed]:
    while True:
        sound = _said(lambda: next(sounds, None))
        if sound is None:
            return
        yield sound


def _on(progress: gr.Progress) -> OnStep:
    def show(done: int, to_do: int) -> None:
        progress((done, to_do), desc="sampling", unit="steps")

    return show


def _stop(event: Event | None) -> None:
    if event:
        event.set()
