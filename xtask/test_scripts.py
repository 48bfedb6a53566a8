"""Tests of the scripts in this folder. `cargo xtask test` runs them; by hand: python -m unittest test_scripts"""

import base64
import contextlib
import copy
import io
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unittest

import checks
import nbformat
import pictures
import run_notebook
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from PIL import Image

ALT = "Accuracy grows, then levels off."


def png(width):
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, 10)
    return base64.b64encode(header + bytes(40)).decode("ascii")


def result(**data):
    return nbformat.v4.new_output("execute_result", data=data, execution_count=1)


def printed(text):
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def notebook(*outputs, **metadata):
    cell = nbformat.v4.new_code_cell("1", outputs=[copy.deepcopy(output) for output in outputs], metadata=metadata)
    return nbformat.v4.new_notebook(cells=[cell])


class Checks(unittest.TestCase):
    ACCURACY = {"cell_output": r"accuracy (\d\.\d+|NaN)", "quick_at_least": 0.3, "full_at_least": 0.9}

    def problems(self, text, quick=True, **changes):
        check = {key: value for key, value in {**self.ACCURACY, **changes}.items() if value is not None}
        return checks.problems([check], notebook(printed("one"), printed(text)), quick)

    def test_quick_and_complete_runs_have_bounds_of_their_own(self):
        self.assertEqual(self.problems("accuracy 0.50"), [])
        self.assertEqual(
            self.problems("accuracy 0.50", quick=False),
            [r"`accuracy (\d\.\d+|NaN)` is 0.5, and has to be at least 0.9"],
        )
        self.assertEqual(self.problems("accuracy 0.50", quick=False, full_at_least=None), [])

    def test_every_number_has_to_reach_the_bound(self):
        self.assertEqual(len(self.problems("accuracy 0.50\naccuracy 0.20")), 1)
        self.assertEqual(len(self.problems("accuracy NaN")), 1)

    def test_a_number_that_is_missing_is_a_problem_unless_it_may_be(self):
        self.assertEqual(self.problems("nothing"), [r"no output matches `accuracy (\d\.\d+|NaN)`"])
        self.assertEqual(self.problems("nothing", if_found=True), [])
        self.assertEqual(len(self.problems("accuracy 0.20", if_found=True)), 1)

    def test_mistakes_in_the_file_are_named(self):
        self.assertIn("exactly one group", self.problems("accuracy 0.50", cell_output="accuracy")[0])
        self.assertIn("unknown key: at_least", self.problems("accuracy 0.50", at_least=1)[0])

    def test_colors_and_tables_are_searched_as_text(self):
        table = result(**{"text/html": "<style>td {}</style><td>accuracy</td><td>0.75</td>"})
        self.assertEqual(
            checks.problems([{"cell_output": r"accuracy\s+(\S+)", "quick_at_least": 0.8}], notebook(table), True),
            [r"`accuracy\s+(\S+)` is 0.75, and has to be at least 0.8"],
        )
        self.assertEqual(self.problems("accuracy \x1b[1m0.50\x1b[0m"), [])


class Pictures(unittest.TestCase):
    def complete(self, *outputs, **metadata):
        made = notebook(*outputs, **metadata)
        pictures.complete(made, self.folder.name)
        return made

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def test_pictures_have_the_alt_text_of_their_cell_and_a_width(self):
        for pixels, width in [(1440, 720), (1760, 800)]:
            picture = self.complete(result(**{"image/png": png(pixels)}), alt=ALT).cells[0].outputs[0]
            self.assertEqual(picture.metadata, {"image/png": {"alt": ALT, "width": width}})
            self.assertEqual(picture.data["text/plain"], ALT)

    def test_a_page_of_html_has_the_alt_text_and_the_width(self):
        made = self.complete(result(**{"image/png": png(1440)}), alt='a "b" <c>')
        page, _ = HTMLExporter(**pictures.TEMPLATE).from_notebook_node(made)
        image = BeautifulSoup(page, "html.parser").select_one("main img")
        self.assertEqual((image["alt"], image["width"]), ('a "b" <c>', "720"))

    def test_a_monitor_becomes_a_line_and_its_picture(self):
        image = pathlib.Path(self.folder.name, "plots", "my run.png")
        image.parent.mkdir()
        image.write_bytes(base64.b64decode(png(1760)))
        page = '<div><img src="plots/my%20run.png" width="880" alt="Training: curves"><script>1</script></div>'
        made = self.complete(result(**{"text/html": page, "text/plain": "A page"}))
        line, picture = made.cells[0].outputs
        self.assertEqual(line.text.count("\n"), 1)
        self.assertEqual(set(picture.data), {"image/png", "text/plain"})
        self.assertEqual(picture.data["image/png"], png(1760))
        self.assertEqual(picture.metadata["image/png"], {"alt": "Training: curves", "width": 800})
        nbformat.validate(made)

    def test_other_html_stays(self):
        pathlib.Path(self.folder.name, "a.png").write_bytes(base64.b64decode(png(10)))
        for page in ["<table></table>", '<img src="a.png">', '<img src="gone.png"><script></script>']:
            self.assertEqual(self.complete(result(**{"text/html": page})).cells[0].outputs[0].data["text/html"], page)


class Committed(unittest.TestCase):
    def test_images_of_a_dataset_are_replaced_by_a_sentence(self):
        tags = [run_notebook.TAG]
        output = run_notebook.committed(notebook(result(**{"image/png": png(10)}), tags=tags)).cells[0].outputs
        self.assertEqual([set(one.data) for one in output], [{"text/markdown", "text/plain"}])
        self.assertIn("not redistributed", output[0].data["text/plain"])
        kept = run_notebook.committed(notebook(result(**{"image/png": png(10)}), tags=["other"])).cells[0].outputs
        self.assertIn("image/png", kept[0].data)

    def test_the_examples_of_a_dataset_are_replaced_in_its_table(self):
        page = '<table></table>\n<img class="vgg-dataset-images" src="data:image/png;base64,aaa" alt="a > b">\n<p></p>'
        output = run_notebook.committed(notebook(result(**{"text/html": page}))).cells[0].outputs[0]
        self.assertEqual(
            output.data["text/html"], f"<table></table>\n<em>{run_notebook.NOT_SHOWN}</em>\n<p></p>"
        )

    def committed_picture(self, image):
        file = io.BytesIO()
        image.save(file, "png")
        made = notebook(result(**{"image/png": base64.b64encode(file.getvalue()).decode("ascii")}))
        pictures.complete(made, ".")
        output = run_notebook.committed(made).cells[0].outputs[0]
        self.assertEqual(output.metadata["image/png"]["width"], image.width // 2)
        return Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))

    def test_large_pictures_of_many_colors_get_one_pixel_per_point(self):
        noise = Image.frombytes("RGB", (1000, 200), random.Random(0).randbytes(3 * 1000 * 200))
        self.assertEqual(self.committed_picture(noise).size, (500, 100))

    def test_large_pictures_of_few_colors_stay_the_same(self):
        dots = Image.frombytes("L", (1000, 200), bytes(random.Random(0).choices([0, 90, 255], k=1000 * 200)))
        kept = self.committed_picture(dots.convert("RGB"))
        self.assertEqual((kept.mode, kept.convert("L").tobytes()), ("P", dots.tobytes()))

    def test_small_pictures_are_not_touched(self):
        self.assertEqual(self.committed_picture(Image.new("RGB", (1000, 200))).mode, "RGB")

    def test_only_tags_and_alt_texts_are_kept_in_metadata(self):
        made = notebook(alt=ALT, tags=["a"], collapsed=True)
        made.metadata["widgets"] = {}
        run_notebook.normalize(made)
        self.assertEqual(made.cells[0].metadata, {"alt": ALT, "tags": ["a"]})
        self.assertEqual(set(made.metadata), {"kernelspec", "language_info"})


@unittest.skipIf(sys.platform == "win32", "there, the kernel is started without the script")
class StartKernel(unittest.TestCase):
    SCRIPT = str(pathlib.Path(__file__).with_name("start_kernel.py"))
    LIBRARY = "ctx/target/host/debug/deps/libvgg_lib.so"
    SMALL = "ctx/target/host/debug/.fingerprint/x"

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.builds = pathlib.Path(folder.name)

    def start(self, *settings, program="print(os.environ['EVCXR_TMPDIR'])", **variables):
        """What a program prints that is started as a kernel."""
        settings = settings or (f"VGG_KERNEL_BUILDS={self.builds}",)
        command = [sys.executable, self.SCRIPT, *settings, sys.executable, "-c", f"import os; {program}"]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=variables).stdout.strip()

    @contextlib.contextmanager
    def running(self):
        """The build folder of a kernel that runs."""
        command = [sys.executable, self.SCRIPT, f"VGG_KERNEL_BUILDS={self.builds}", sys.executable, "-uc"]
        program = "import os; print(os.environ['EVCXR_TMPDIR']); input()"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen([*command, program], env={}, **pipes) as process:
            yield pathlib.Path(process.stdout.readline().strip())
            process.communicate("\n")

    def build(self, folder, text, seconds):
        for name, content in [(self.LIBRARY, text * 100_000), (self.SMALL, text)]:
            file = self.builds / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
            os.utime(file, (seconds, seconds))

    def test_kernels_that_run_at_the_same_time_have_folders_of_their_own(self):
        with self.running() as first, self.running() as second:
            self.assertEqual((first, second), (self.builds / "0/ctx", self.builds / "1/ctx"))
        self.assertEqual(self.start(), str(self.builds / "0/ctx"))

    def test_a_kernel_starts_from_a_copy_of_the_warm_build(self):
        self.build("warm", "a", 1000)
        copies = [pathlib.Path(self.start()).parent, self.builds / "warm"]
        library, original = (folder / self.LIBRARY for folder in copies)
        self.assertTrue(library.samefile(original), "large files are hard links")
        small, original = (folder / self.SMALL for folder in copies)
        self.assertEqual(small.read_text(), "a")
        self.assertFalse(small.samefile(original), "small files are copied")
        self.assertEqual(small.stat().st_mtime, 1000)

    def test_the_newer_build_is_used(self):
        self.build("warm", "a", 1000)
        self.build("0", "b", 2000)
        (self.builds / "0" / "left-over").write_text("")
        self.start()
        self.assertEqual((self.builds / "0" / self.SMALL).read_text(), "b")
        self.build("warm", "c", 3000)
        self.start()
        self.assertEqual((self.builds / "0" / self.SMALL).read_text(), "c")
        self.assertFalse((self.builds / "0" / "left-over").exists())

    def test_without_a_warm_build_the_folder_is_empty(self):
        self.assertEqual(list(pathlib.Path(self.start()).iterdir()), [])

    def test_a_setting_with_a_question_mark_gives_way(self):
        program = "print(os.environ['A'], os.environ['B'])"
        self.assertEqual(self.start("A=1", "B?=1", program=program, A="2", B="2"), "1 2")
        self.assertEqual(self.start("A=1", "B?=x=y", program=program), "1 x=y")


if __name__ == "__main__":
    unittest.main()
