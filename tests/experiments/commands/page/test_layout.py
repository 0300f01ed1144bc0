"""The page in a real browser; it needs gradio, playwright and Chromium."""

import shutil
import subprocess
import sys
import types
from typing import Any

import pytest
from PIL import Image

gradio = pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
layout = pytest.importorskip("experiments.commands.page.layout")

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium")


@pytest.fixture
def browser():
    if not CHROMIUM:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def address(digits_run):
    port = "7893"
    flags = [f"--workdir={digits_run.folder}", f"--config.serve.port={port}"]
    command = [sys.executable, "-m", "experiments.main", "--mode=serve", *flags]
    process: Any = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().split()[0]
    process.kill()
    process.wait()


@pytest.fixture
def page(browser, address):
    opened = browser.new_page(viewport={"width": 390, "height": 844})  # a phone
    for _ in range(100):
        try:
            opened.goto(address)
            break
        except playwright.Error:
            opened.wait_for_timeout(200)
    opened.wait_for_selector("text=Way from noise")
    return opened


def test_inpainting_needs_a_painted_part(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    Image.new("RGBA", (8, 8)).save(tmp_path / "layer.png")
    studio: Any = types.SimpleNamespace(kept_file=lambda *content: "image.png")
    for layers in ([], [tmp_path / "layer.png"]):
        image = {"background": tmp_path / "image.png", "layers": layers}
        with pytest.raises(ValueError, match="nothing is painted: paint over the part to replace"):
            layout._image(studio, {"edit.task": "inpaint"}, image)
        assert layout._image(studio, {"edit.task": "deblur"}, image) == {"edit.images": "image.png"}


def test_samples_are_drawn_loaded_and_edited(page, tmp_path):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    seed = page.get_by_label("seed")
    seed.fill("7")
    page.click("button:has-text('Draw')")
    page.wait_for_selector("text=4 done", timeout=120_000)
    picture = tmp_path / "picture.png"
    source = page.locator("img[src*='.png']").first.get_attribute("src")
    picture.write_bytes(page.request.get(source).body())

    seed.fill("8")
    page.locator("input[type=file][accept='.png']").set_input_files(picture)
    page.wait_for_function("document.querySelector('input[type=number]').value == 7")

    page.click("button[role=tab]:has-text('Edit')")
    page.locator("button:has-text('Edit')").last.click()
    page.wait_for_selector("text=there is no image")
    page.locator("input[type=file][accept='image/*']").set_input_files(picture)
    page.wait_for_timeout(2000)  # until the page has it
    page.get_by_label("edit", exact=True).click()
    page.click("[role=option]:has-text('inpaint')")
    page.locator("button:has-text('Edit')").last.click()
    page.wait_for_selector("text=paint over the part to replace")
    page.get_by_label("edit", exact=True).click()
    page.click("[role=option]:has-text('variations')")
    page.locator("button:has-text('Edit')").last.click()
    page.wait_for_selector("text=4 done >> visible=true", timeout=120_000)
