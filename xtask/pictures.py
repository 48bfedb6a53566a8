"""Makes the pictures of an executed notebook complete: alternative text, a width, and no file that lies elsewhere.

The alternative text of a picture is the `alt` of its cell's metadata. nbconvert reads it from the output's metadata, and
front ends that show no pictures show `text/plain`. Figures have two pixels per point, so their width is half of it.

A monitor's page shows an image file beside the notebook. A copy of the notebook would not find it, so the page is
replaced by a line and by the image as it is now.

In a notebook for git, large pictures get a palette of 256 colors, in which curves, tables and maps look the same.
Photos, in which the difference would be seen, get one pixel per point instead.
"""

import base64
import html
import io
import pathlib
import re
import struct
from urllib.parse import unquote

import nbformat
from nbconvert.preprocessors import Preprocessor
from PIL import Image, ImageChops, ImageStat

MAX_WIDTH = 800
# Pictures with more bytes are made smaller for git.
LARGE_BYTES = 40_000
# The mean difference, of 255, that cannot be seen: over the whole picture, and over each of its BLOCKs, because a small
# thing of a rare color, such as a green eye, loses it first.
SAME, SAME_IN_BLOCK, BLOCK = 1.0, 10.0, 16
# With half the pixels, pictures with more bytes get 256 colors whatever that changes.
HUGE_BYTES = 200_000
# nbconvert's page for JupyterLab leaves the alternative text out; the template `vgg` has it.
TEMPLATE = {"template_name": "vgg", "extra_template_basedirs": [str(pathlib.Path(__file__).with_name("nbconvert"))]}
MONITOR_LINE = "The live view, as it was at the end. Run this cell to see it live.\n"
IMAGE = re.compile(r'<img\b[^>]*?\bsrc="([^":]+\.png)"[^>]*>')
ALT = re.compile(r'\balt="([^"]*)"')


def complete(notebook, folder):
    """`folder` is where the notebook lies."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = (part for output in cell.outputs for part in without_page(output, folder))
            cell.outputs = [described(output, cell.metadata.get("alt")) for output in outputs]


def without_page(output, folder):
    """The output itself or, if it is a monitor's page, a line and its image."""
    page = output.get("data", {}).get("text/html", "")
    image = IMAGE.search(page)
    if not image or "<script" not in page:
        return [output]
    file = pathlib.Path(folder) / unquote(html.unescape(image[1]))
    if not file.is_file():
        return [output]
    png = base64.b64encode(file.read_bytes()).decode("ascii")
    alt = ALT.search(image[0])
    data = {"image/png": png, "text/plain": html.unescape(alt[1]) if alt else "Training: accuracy and loss"}
    line = nbformat.v4.new_output("stream", name="stdout", text=MONITOR_LINE)
    picture = nbformat.v4.new_output(
        output.output_type, data=data, **{key: output[key] for key in ["execution_count"] if key in output}
    )
    return [line, picture]


def described(output, alt):
    png = output.get("data", {}).get("image/png")
    if not png:
        return output
    alt = alt or output.data.get("text/plain")
    if alt:
        output.data["text/plain"] = alt
        output.metadata.setdefault("image/png", {})["alt"] = alt
    width = pixels(png)
    if width:
        output.metadata.setdefault("image/png", {})["width"] = min(width // 2, MAX_WIDTH)
    return output


def reduce(output):
    """Makes a large picture smaller."""
    png = output.get("data", {}).get("image/png", "")
    width = output.get("metadata", {}).get("image/png", {}).get("width")
    if not width or len(png) * 3 // 4 <= LARGE_BYTES:
        return
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    small = with_few_colors(image)
    if not looks_same(image, small.convert("RGB")):
        small = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
        if len(png_bytes(small)) > HUGE_BYTES:
            small = with_few_colors(small)
    output.data["image/png"] = base64.b64encode(png_bytes(small)).decode("ascii")


def with_few_colors(image):
    return image.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)


def png_bytes(image):
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return file.getvalue()


def looks_same(image, other):
    difference = ImageChops.difference(image, other)
    blocks = difference.reduce(BLOCK)
    largest = max(high for _, high in blocks.getextrema())
    return max(ImageStat.Stat(difference).mean) <= SAME and largest <= SAME_IN_BLOCK


def pixels(png):
    """The width of a PNG in base64, or None if it is something else."""
    header = base64.b64decode(png[:32])
    return struct.unpack(">I", header[16:20])[0] if header.startswith(b"\x89PNG\r\n\x1a\n") else None


class Complete(Preprocessor):
    """nbconvert's step that completes the pictures."""

    def preprocess(self, nb, resources):
        complete(nb, resources.get("metadata", {}).get("path") or ".")
        return nb, resources


def configure(config):
    """Lets JupyterLab export complete pages. `config` is Jupyter's `c`."""
    config.HTMLExporter.preprocessors = [Complete]
    config.HTMLExporter.embed_images = True
    config.HTMLExporter.update(TEMPLATE)
