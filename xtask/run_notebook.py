"""Executes one notebook in the Rust kernel, from top to bottom, in the current folder.

    run_notebook.py NOTEBOOK --executed OUT.ipynb --html OUT.html [--checks CHECKS.json] [--committed OUT.ipynb]
                    [--times OUT.json]

Whatever a cell prints is shown at once. A cell that writes to stderr has failed: there evcxr reports a panic, or a `?`
that met an error, although it calls the cell a success. Then the numbers in the outputs have to reach what `--checks`
says (see checks.py). The executed copy and the HTML are written in any case. After a success, `--committed` writes the
copy for git, in which cells tagged `dataset-images` have a sentence in place of their output and large pictures are
made smaller, and `--times` writes how long each code cell took: [{"cell": its first line, "seconds": …}, …].
"""

import argparse
import asyncio
import copy
import json
import os
import pathlib
import queue
import re
import sys
import time

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbclient.util import ensure_async
from nbconvert import HTMLExporter

import checks
import pictures

TAG = "dataset-images"
# The strip of examples in a dataset's HTML.
STRIP = re.compile(r'<img class="vgg-dataset-images"(?:[^">]|"[^"]*")*>')
NOT_SHOWN = "The images of this dataset are not redistributed: run this cell to see them."
# What JupyterLab writes after it has asked evcxr, to the letter ("pygment_lexer"): opening a notebook changes nothing.
METADATA = {
    "kernelspec": {"display_name": "Rust", "language": "rust", "name": "rust"},
    "language_info": {
        "codemirror_mode": "rust",
        "file_extension": ".rs",
        "mimetype": "text/rust",
        "name": "Rust",
        "pygment_lexer": "rust",
        "version": "",
    },
}


class Client(NotebookClient):
    """Shows stdout at once, collects what the running cell writes to stderr, and times the cells."""

    stderr = ""
    seconds = 0.0

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream":
            text = msg["content"]["text"]
            if msg["content"]["name"] == "stderr":
                self.stderr += text
            else:
                say(text)
        return super().process_message(msg, cell, cell_index)

    async def late_output(self, cell, index):
        """Waits for streams that arrive after the cell has ended: evcxr sends them from another thread."""
        while True:
            try:
                msg = await ensure_async(self.kc.iopub_channel.get_msg(timeout=0.2))
            except queue.Empty:
                return
            if msg["msg_type"] == "stream":
                self.process_message(msg, cell, index)


def say(text):
    for line in text.splitlines():
        print(f"       {line}", flush=True)


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def first_lines(text, count=12):
    lines = [line for line in plain(text).splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[:count])


async def run_cell(client, cell, index):
    """Returns None, or why the cell failed."""
    client.stderr = ""
    failure = None
    start = time.monotonic()
    try:
        await client.async_execute_cell(cell, index)
    except CellExecutionError:
        errors = ["\n".join(out.traceback or [out.evalue]) for out in cell.outputs if out.output_type == "error"]
        failure = "failed:\n" + first_lines("\n".join(errors), 30)
    except DeadKernelError:
        return "killed the kernel"
    client.seconds = time.monotonic() - start
    await client.late_output(cell, index)
    if failure is None and client.stderr.strip():
        failure = f"wrote to stderr (a panic, or a `?` that met an error):\n{first_lines(client.stderr)}"
    return failure


async def execute(notebook, times):
    """Returns None, or why the notebook failed. Appends each cell's time to `times`."""
    client = Client(
        notebook, kernel_name="rust", timeout=None, startup_timeout=600, record_timing=False, coalesce_streams=True
    )
    cells = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for _, cell in cells:
        cell.outputs, cell.execution_count = [], None
    client.reset_execution_trackers()
    async with client.async_setup_kernel():
        for number, (index, cell) in enumerate(cells, 1):
            summary = next((line for line in cell.source.splitlines() if line.strip()), "")
            print(f"  [{number}/{len(cells)}] {summary[:100]}", flush=True)
            failure = await run_cell(client, cell, index)
            times.append({"cell": summary, "seconds": client.seconds})
            # evcxr counts from 2.
            cell.execution_count = number
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = number
            say(f"{client.seconds:.1f} s")
            if failure:
                return f"cell [{number}] {failure}"
    return None


def normalize(notebook):
    """Gives the notebook the same metadata for every reader, so that a diff shows only real changes."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        kept = {key: cell.metadata[key] for key in ("alt", "tags") if cell.metadata.get(key)}
        cell.metadata = nbformat.from_dict(kept)


def committed(notebook):
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code" and TAG in cell.metadata.get("tags", []):
            data = {"text/markdown": f"*{NOT_SHOWN}*", "text/plain": NOT_SHOWN}
            cell.outputs = [nbformat.v4.new_output("display_data", data=data)]
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                output.data["text/html"] = STRIP.sub(f"<em>{NOT_SHOWN}</em>", output.data["text/html"])
            pictures.reduce(output)
    return notebook


def unmet(path, name, notebook):
    """Returns None, or which checks failed."""
    if os.environ.get("VGG_EPOCHS"):
        say(f"{path.name} is not looked at, because VGG_EPOCHS is set")
        return None
    quick = os.environ.get("VGG_QUICK") == "1"
    found = checks.problems(json.loads(path.read_text(encoding="utf-8")).get(name, []), notebook, quick)
    return "; ".join(found) or None


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("notebook", type=pathlib.Path)
    parser.add_argument("--executed", type=pathlib.Path, required=True)
    parser.add_argument("--html", type=pathlib.Path, required=True)
    for option in ("--checks", "--committed", "--times"):
        parser.add_argument(option, type=pathlib.Path)
    return parser.parse_args()


def main():
    args = parse_arguments()
    notebook = nbformat.read(args.notebook, as_version=4)
    times = []
    try:
        failure = asyncio.run(execute(notebook, times))
    except RuntimeError as error:
        failure = f"the kernel did not start: {error}"
    if not failure and args.checks:
        failure = unmet(args.checks, args.notebook.stem, notebook)
    normalize(notebook)
    pictures.complete(notebook, args.notebook.parent)
    nbformat.write(notebook, args.executed)
    exporter = HTMLExporter(**pictures.TEMPLATE)
    html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": args.notebook.stem}})
    args.html.write_text(html, encoding="utf-8")
    if failure:
        sys.exit(f"{args.notebook.name}: {failure}")
    if args.committed:
        nbformat.write(committed(notebook), args.committed)
    if args.times:
        args.times.write_text(json.dumps(times), encoding="utf-8")


if __name__ == "__main__":
    main()
