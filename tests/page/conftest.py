"""Headless Chromium, with every page opened from a file and nothing to load from anywhere."""

import base64
import os
import re
import shutil
from pathlib import Path

import pytest

SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Browser:
    """A window on one page at a time."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, *, width=1400, scheme="light"):
        self.see(width=width, scheme=scheme)
        self.driver.get(Path(path).resolve().as_uri())
        self.wait("document.querySelectorAll('.chart').length === document.querySelectorAll('.chart svg').length")

    def see(self, *, width=1400, scheme="light"):
        """Look at the page in a window of this width, by a reader who likes it light or dark."""
        self.command(
            "Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )

    def command(self, name, **parameters):
        return self.driver.execute_cdp_cmd(name, parameters)

    def js(self, expression, *arguments):
        """The value of an expression on the page."""
        return self.driver.execute_script(f"return {expression}", *arguments)

    def wait(self, expression):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 20, 0.05).until(lambda _: self.js(expression), expression)

    def find(self, selector):
        return self.driver.find_elements("css selector", selector)

    def complaints(self):
        """What the console says since it was last asked: errors of scripts, and what the content policy refused."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def photograph(self, path, *, whole=True):
        """The page into a file, or what the window shows of it."""
        image = self.command("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(image))


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    yield Browser(window)
    window.quit()


@pytest.fixture
def album(request, tmp_path):
    """Where photographs of the pages go: a folder of one's choice, to look at them."""
    folder = Path(os.environ.get("LOSSLESS_PAGE_PHOTOGRAPHS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return lambda name: folder / f"{re.sub(r'[^a-z0-9]+', '-', request.node.name)}-{name}.png"
