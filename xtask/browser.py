"""Tries the notebooks as a reader does: in JupyterLab, through a browser. `cargo xtask test --tools` runs it.

    browser.py XTASK [--browser CHROMIUM] [--screenshots FOLDER] [TEST…]

XTASK is the program behind `cargo xtask`. Every test is a function whose name starts with `test_`; a name given as an
argument runs only the tests that contain it. JupyterLab is started by `cargo xtask lab` in a temporary folder.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request

from playwright.sync_api import expect, sync_playwright

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKEN = "browser"
# A cell compiles in a second, but nobody knows what else this machine does.
PATIENCE = 300_000

# The parts of the monitor's page.
STATE = ".vgg-monitor .title"
STOP = ".vgg-monitor .stop"
UNTRUSTED = "A cell may be running"

TRAINING = [
    'let monitor = Monitor::new("plots/browser")?;\nmonitor',
    "let data = shapes::generate(512, (16, 16), 1);\n"
    "let mut model = Sequential::new((16, 16, 3), Seed(0));\n"
    'model.push("conv", conv2d(8).relu())?;\n'
    'model.push("flatten", flatten())?;\n'
    'model.push("predictions", linear(10))?;',
    "let history = model.fit(&data, &data, FitConfig {\n"
    "    epochs: 100_000, batch_size: 16, schedule: Schedule::Constant(0.001), monitor: Some(monitor.clone()),\n"
    "    ..FitConfig::default()\n"
    "})?;",
    'println!("alive after {} epochs", history.epochs.len());',
]


class Lab:
    """JupyterLab on a temporary folder, and a page of a browser that shows it."""

    def __init__(self, xtask, browser, folder, screenshots):
        self.xtask, self.browser, self.folder, self.screenshots = xtask, browser, folder, screenshots
        self.page = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @contextlib.contextmanager
    def running(self):
        options = [
            "--no-browser",
            f"--ServerApp.port={self.port}",
            f"--IdentityProvider.token={TOKEN}",
            "--LabApp.expose_app_in_browser=True",
        ]
        log = open(self.folder / "lab.log", "w")
        command = [self.xtask, "lab", str(self.folder), "--", *options]
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            self.wait_for_server(server)
            yield self
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()

    def wait_for_server(self, server):
        for _ in range(PATIENCE // 1000):
            assert server.poll() is None, (self.folder / "lab.log").read_text()
            with contextlib.suppress(OSError):
                self.api("api/status")
                return
            time.sleep(1)
        raise TimeoutError("JupyterLab does not start")

    def url(self, path):
        return f"http://127.0.0.1:{self.port}/{path}"

    def api(self, path, method="GET"):
        request = urllib.request.Request(self.url(path), method=method, headers={"Authorization": f"token {TOKEN}"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()

    def close(self):
        if self.page:
            self.page.close()
            self.page = None

    def open(self, name, statuses=("idle",)):
        """Opens a notebook in a new page, and closes the one before. Waits until its kernel has one of these statuses."""
        self.close()
        self.page = self.browser.new_page(viewport={"width": 1200, "height": 1000})
        self.page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        self.page.goto(self.url(f"lab/tree/{name}?token={TOKEN}&reset"))
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.page.wait_for_function(
            "(all) => all.includes(jupyterapp.shell.currentWidget.context?.sessionContext.session?.kernel?.status)",
            arg=list(statuses),
        )

    def run(self, command, **arguments):
        self.page.evaluate("([name, args]) => jupyterapp.commands.execute(name, args)", [command, arguments])

    def start(self, command):
        """Like `run`, but does not wait for the end."""
        self.page.evaluate("(name) => { jupyterapp.commands.execute(name); }", command)

    def save(self):
        self.run("docmanager:save")

    def outputs(self, cell):
        """The text of the outputs of the code cell with this number, from 0."""
        return self.page.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea-output")

    def finish(self, cell):
        """Waits until the code cell with this number has run."""
        prompt = self.page.locator(".jp-CodeCell").nth(cell).locator(".jp-InputPrompt").first
        expect(prompt).to_have_text(re.compile(r"\[\d+\]"))

    def shot(self, name):
        if self.screenshots:
            self.page.screenshot(path=self.screenshots / f"{name}.png")

    def shut_down(self):
        for kernel in json.loads(self.api("api/kernels")):
            self.api(f"api/kernels/{kernel['id']}", "DELETE")

    def new(self, name, cells, folder=""):
        """Lets `cargo xtask new` make a notebook, and replaces the cells after the first one."""
        subprocess.run([self.xtask, "new", name, str(self.folder / folder)], check=True, stdout=subprocess.DEVNULL)
        path = self.folder / folder / f"{name}.ipynb"
        notebook = json.loads(path.read_text())
        model = notebook["cells"].pop()
        for number, source in enumerate(cells):
            notebook["cells"].append({**model, "id": f"cell-{number}", "source": source})
        path.write_text(json.dumps(notebook, indent=1) + "\n")
        return str(path.relative_to(self.folder))


def test_opening_and_saving_changes_no_notebook(lab):
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shutil.copy(source, lab.folder)
        lab.open(source.name)
        lab.save()
        lab.shot(f"open_{source.stem}")
        saved = (lab.folder / source.name).read_text()
        before = source.read_text()
        assert saved == before, f"{source.name}: {first_difference(before, saved)}"


def test_a_new_notebook_is_saved_as_it_was_made(lab):
    subprocess.run([lab.xtask, "new", "made", str(lab.folder)], check=True, stdout=subprocess.DEVNULL)
    before = (lab.folder / "made.ipynb").read_text()
    lab.open("made.ipynb")
    lab.save()
    saved = (lab.folder / "made.ipynb").read_text()
    assert saved == before, first_difference(before, saved)


def test_there_is_no_news(lab):
    lab.open(lab.new("news", []))
    config = json.loads(lab.page.locator("#jupyter-config-data").text_content())
    disabled = config.get("disabledExtensions", {})
    assert any("apputils-extension:announcements" in name for name in disabled), disabled


def test_two_notebooks_at_once_start_from_the_same_build(lab):
    """In a folder below and in one elsewhere; neither has an evcxr.toml, and neither compiles the library."""
    for folder in ("", "below"):
        name = lab.new("two", ['println!("ready");'], folder)
        lab.open(name)
        lab.start("notebook:run-all-cells")
        expect(lab.outputs(1)).to_have_text("ready")
    builds = [build_of(process) for process in kernels()]
    assert len(builds) == 2, builds
    warm = library(builds[0].parent.parent / "warm" / "ctx")
    for build in builds:
        assert library(build).samefile(warm), f"{build} has compiled the library"


def test_a_panic_is_one_line(lab):
    lab.open(lab.new("panic", ['println!("ready");', "let numbers = vec![1];\nnumbers[1]"]))
    lab.start("notebook:run-all-cells")
    expect(lab.outputs(2).first).to_contain_text("panicked")
    text = lab.outputs(2).all_inner_texts()
    lab.shot("panic")
    assert "backtrace:" not in "".join(text), text


def test_a_forgotten_question_mark_is_an_error(lab):
    lab.open(lab.new("forgotten", ['println!("ready");', 'std::fs::read("no such file");']))
    lab.start("notebook:run-all-cells")
    expect(lab.outputs(2).first).to_contain_text("unused `Result` that must be used")
    lab.shot("forgotten")


def test_stop_keeps_the_variables(lab):
    lab.open(lab.new("stop", TRAINING))
    lab.start("notebook:run-all-cells")
    expect(lab.page.locator(STATE)).to_contain_text("Epoch")
    lab.shot("training")
    lab.page.locator(STOP).click()
    lab.finish(3)
    lab.finish(4)
    expect(lab.outputs(4)).to_contain_text(re.compile(r"alive after \d+ epochs"))
    lab.shot("stopped")


def test_a_closed_tab_shows_training_live_when_it_is_opened_again(lab):
    name = lab.new("closed", TRAINING)
    lab.open(name)
    lab.start("notebook:run-all-cells")
    expect(lab.page.locator(STATE)).to_contain_text("Epoch")
    lab.save()
    lab.open(name, statuses=("busy", "unknown"))
    expect(lab.page.locator(STATE)).to_contain_text("Epoch")

    # Jupyter trusts what it has saved itself, and no other file.
    lab.close()
    file = lab.folder / name
    file.write_text(file.read_text().replace("# closed", "# changed"))
    lab.open(name, statuses=("busy", "unknown"))
    expect(lab.outputs(1).first).to_contain_text(UNTRUSTED)
    lab.shot("untrusted")
    lab.start("notebook:trust")
    lab.page.locator(".jp-Dialog .jp-mod-accept").click()
    expect(lab.page.locator(STATE)).to_contain_text("Epoch")
    lab.shot("trusted")
    lab.page.locator(STOP).click()
    expect(lab.page.locator(".vgg-monitor .note")).to_contain_text("Training ended early")
    lab.shot("trusted_stopped")


def test_a_live_picture_changes_while_the_next_cell_runs(lab):
    cells = [
        'let live = LivePicture::new("plots/live", &RgbImage::new(32, 32))?;\nlive',
        "std::thread::sleep(std::time::Duration::from_secs(2));\nlive.update(&RgbImage::new(60, 30))?;\n"
        "std::thread::sleep(std::time::Duration::from_secs(20));",
    ]
    lab.open(lab.new("live", cells))
    lab.start("notebook:run-all-cells")
    # Small pictures are enlarged eight times.
    for width in (256, 480):
        shown = f"""document.querySelector('img[alt^="The picture"]')?.naturalWidth === {width}"""
        lab.page.wait_for_function(shown)
    busy = lab.page.locator(".jp-CodeCell").nth(2).locator(".jp-InputPrompt").first
    expect(busy).to_have_text("[*]:")
    lab.shot("live")


def test_a_page_of_html_shows_its_pictures(lab):
    plot = 'plot::lines("squares", "x", "y", &[("y", vec![(0.0, 0.0), (1.0, 1.0), (2.0, 4.0)])]).save("plots/squares")?'
    name = lab.new("export", [*TRAINING[:2], TRAINING[2].replace("100_000", "2"), plot])
    lab.open(name)
    lab.start("notebook:run-all-cells")
    lab.finish(4)
    lab.save()
    exported = lab.folder / "exported" / "export.html"
    exported.parent.mkdir()
    exported.write_bytes(lab.api(f"nbconvert/html/{name}"))
    page = lab.browser.new_page(viewport={"width": 1200, "height": 1600})
    page.goto(exported.as_uri())
    images = page.locator("main img").evaluate_all("all => all.map(i => [i.naturalWidth, i.alt, i.offsetWidth])")
    if lab.screenshots:
        page.screenshot(path=lab.screenshots / "export.png", full_page=True)
    page.close()
    assert len(images) == 2 and all(pixels > 0 and "No description" not in alt for pixels, alt, _ in images), images
    assert page_has_no_file(exported), "the page needs files beside it"


def page_has_no_file(page):
    return not re.search(r'<img[^>]*src="(?!data:)', page.read_text())


def kernels():
    """The processes of Rust kernels that this test has started, as folders of /proc."""
    running = (process for process in pathlib.Path("/proc").glob("[0-9]*"))
    return [process for process in running if is_kernel(process)]


def is_kernel(process):
    with contextlib.suppress(OSError):
        command = (process / "cmdline").read_bytes().split(b"\0")
        here = str(pathlib.Path.cwd())
        return b"--control_file" in command and os.readlink(process / "cwd").startswith(here)
    return False


def build_of(process):
    variables = (process / "environ").read_bytes().split(b"\0")
    return next(pathlib.Path(os.fsdecode(v[13:])) for v in variables if v.startswith(b"EVCXR_TMPDIR="))


def library(build):
    return next(build.glob("target/*/debug/deps/libvgg_lib.so"))


def first_difference(before, after):
    pairs = zip(before.splitlines(), after.splitlines())
    return next((f"{a.strip()!r} became {b.strip()!r}" for a, b in pairs if a != b), "the length changed")


def find_browser():
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
    return next(filter(None, map(shutil.which, names)), None)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("xtask")
    parser.add_argument("tests", nargs="*")
    parser.add_argument("--browser", default=find_browser())
    parser.add_argument("--screenshots", type=pathlib.Path)
    args = parser.parse_args()
    if not args.browser:
        sys.exit("no Chromium or Chrome was found: install one, or name it with --browser")
    tests = [(name, run) for name, run in globals().items() if name.startswith("test_")]
    chosen = [test for test in tests if not args.tests or any(part in test[0] for part in args.tests)]
    failed = []
    xtask, screenshots = os.path.abspath(args.xtask), args.screenshots and args.screenshots.resolve()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, sync_playwright() as playwright:
        folder = pathlib.Path(folder).resolve()
        os.chdir(folder)
        if screenshots:
            screenshots.mkdir(parents=True, exist_ok=True)
        browser = playwright.chromium.launch(executable_path=args.browser, args=["--no-sandbox"])
        with Lab(xtask, browser, folder, screenshots).running() as lab:
            for name, run in chosen:
                begun = time.monotonic()
                try:
                    run(lab)
                    result = "ok"
                except Exception:
                    traceback.print_exc()
                    lab.shot(f"failed_{name}")
                    failed.append(name)
                    result = "FAILED"
                lab.shut_down()
                print(f"{name} ... {result} ({time.monotonic() - begun:.0f} s)", flush=True)
        browser.close()
    if failed:
        sys.exit(f"{len(failed)} of {len(chosen)} tests failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
