"""A page on this machine to try a model on: drop a radiograph, see its label and what the model looks at.

    pip install hf_radmae[demo]
    python scripts/demo.py --model out/phantom --classifier out/classifier

The file may be a PNG, TIFF, JPEG or DICOM of 8 to 16 bit. `--classifier` (of scripts/export.py) gives the label with
probabilities, `--model` (of scripts/pretrain.py) the reconstruction; one of them is enough. The page is served to
this machine alone, asks no other one for anything, and an upload is removed as soon as it is read.
"""

import html
import os
import sys
import tempfile
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}  # read when gradio is imported

try:
    import gradio as gr
except ImportError:
    sys.exit("gradio is missing: pip install hf_radmae[demo]")

from hf_radmae.cli.command import command
from hf_radmae.cli.parse import parse
from hf_radmae.images.image import ImageError
from hf_radmae.inference.demo import MAX_UPLOAD, View, Viewer, png
from hf_radmae.sources.phantom import REGIONS, generate

STYLE = """
.pictures { display: flex; flex-wrap: wrap; gap: 1em; }
.pictures figure { width: 14em; margin: 0; }
.pictures img { width: 100%; image-rendering: pixelated; }
"""


@dataclass
class DemoArguments:
    """What is tried, and where."""

    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of a pre-trained checkpoint."})
    classifier: str | None = field(default=None, metadata={"help": "Folder or Hub id of an exported classifier."})
    port: int = field(default=7860, metadata={"help": "Port on 127.0.0.1."})


def page(viewer: Viewer) -> gr.Blocks:
    """The page; its function `/predict` takes a file and gives label, pictures and message."""

    def answer(source: Any) -> tuple[dict[str, float] | None, str, str]:
        try:
            view = viewer(source)
        except ImageError as error:
            return None, "", f'<p role="alert">This image {html.escape(error.reason)}.</p>'
        return view.scores or None, figures(view), ""

    def upload(path: str | None) -> tuple:
        try:
            return None, *answer(path)  # without its file the upload area is empty, for the next
        finally:
            if path is not None:  # gradio hands on nothing but what it has stored itself
                Path(path).unlink(missing_ok=True)

    def example(region: str) -> tuple:
        return answer(generate(1, seed=1, scale=0.1, frequencies={region: 1.0})[0].pixels())

    regions = [region for region in REGIONS if region != "whole_body"]
    with gr.Blocks(title="hf_radmae", analytics_enabled=False, delete_cache=(60, 600)) as blocks:
        gr.Markdown("# A radiograph as the model sees it\nA research tool, not for diagnosis.")
        with gr.Row():
            with gr.Column(scale=1):
                file = gr.File(label="Image or DICOM file", elem_id="upload")
                gr.Markdown("Generated examples:")
                with gr.Row():
                    buttons = {region: gr.Button(region.replace("_", " "), size="sm") for region in regions}
                label = gr.Label(label="Label", elem_id="label", visible=viewer.classify is not None)
            with gr.Column(scale=3):
                message, pictures = gr.HTML(elem_id="message"), gr.HTML(elem_id="pictures")
        file.upload(upload, file, [file, label, pictures, message], api_name="predict", concurrency_id="model")
        for region, button in buttons.items():
            button.click(
                lambda region=region: example(region),
                None,
                [label, pictures, message],
                api_visibility="private",
                concurrency_id="model",
            )
    return blocks.queue(max_size=16, default_concurrency_limit=1)


def figures(view: View) -> str:
    """The pictures as HTML that holds them: no file is written, and none is named."""
    parts = (
        f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{b64encode(png(pixels)).decode()}">'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, pixels in view.pictures.items()
    )
    return f'<div class="pictures">{"".join(parts)}</div>'


def launch(blocks: gr.Blocks, port: int | None, **options: Any) -> str:
    """Serve the page to this machine alone, and return its address."""
    private: dict[str, Any] = {"server_name": "127.0.0.1", "share": False, "enable_monitoring": False}
    private |= {"ssr_mode": False, "mcp_server": False, "run_history": False, "footer_links": []}
    return blocks.launch(server_port=port, max_file_size=MAX_UPLOAD, css=STYLE, **private, **options)[1]


@command
def main() -> None:
    (args,) = parse((DemoArguments,), description=__doc__)
    try:
        viewer = Viewer(args.model, args.classifier)
    except (ValueError, OSError) as error:
        sys.exit(f"{error}")
    with tempfile.TemporaryDirectory(prefix="hf_radmae_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        launch(page(viewer), args.port)
