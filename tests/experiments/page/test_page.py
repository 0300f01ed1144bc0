"""The page in a real browser; it needs gradio, playwright and Chromium."""

import shutil
import subprocess
import sys

import pytest

gradio = pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

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
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().split()[0]
    process.kill()
    process.wait()


def test_samples_are_drawn_and_an_image_is_edited(browser, address, tmp_path):
    page = browser.new_page(viewport={"width": 390, "height": 844})  # a phone
    for _ in range(100):
        try:
            page.goto(address)
            break
        except playwright.Error:
            page.wait_for_timeout(200)
    page.wait_for_selector("text=Way from noise")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("button:has-text('Draw')")
    page.wait_for_selector("text=4 done", timeout=120_000)
    with page.expect_download() as download:
        page.locator("[aria-label='Download all'], button[title*='ownload']").first.click()
    assert download.value.suggested_filename
