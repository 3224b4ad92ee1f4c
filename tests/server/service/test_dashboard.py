"""The dashboard in a real browser: launch from the form, watch rounds arrive, stop, compare; no error in the console."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from serving import LONG, Server
from small import small

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE_MS = 90_000

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield made
        made.close()


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Where screenshots are kept: $FEDCOSIM_SCREENSHOTS, or the test's own folder."""
    folder = Path(os.environ.get("FEDCOSIM_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_page(browser: Browser, server: Server, complaints: list[str], **context) -> Page:
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    ours = (server.url, "data:", "blob:")  # nothing comes from anywhere else
    page.on("request", lambda request: None if request.url.startswith(ours) else complaints.append(request.url))
    page.goto(server.url)
    return page


def test_launch_watch_stop_and_compare(browser, server, pictures):
    complaints: list[str] = []
    page = open_page(browser, server, complaints)
    page.get_by_role("link", name="New experiment").click()
    page.locator("[name='name']").fill("from-the-form")
    page.locator("[name='federation.clients']").fill("6")
    page.locator("[name='federation.rounds']").fill("0")
    page.get_by_role("button", name="Launch").click()
    expect(page.locator("[name='federation.rounds']:invalid")).to_have_count(1)
    page.locator("[name='federation.rounds']").fill("3")
    page.locator("[name='evaluate.every']").fill("1")
    page.locator("[name='upload.codec']").select_option("topk")
    page.locator("[name='upload.keep']").fill("0.2")
    page.locator("#more").fill('{"engine": {"workers": 1}, "strategy": {"name": "fedsgd"}}')
    page.get_by_role("button", name="Launch").click()
    expect(page.get_by_role("alert")).to_contain_text("strategy.name = 'fedsgd': did you mean")
    complaints.clear()  # the browser notes the 422
    page.locator("#more").fill(
        '{"engine": {"workers": 1}, "hardware": {"devices": {"raspberry-pi-5": 0.5, "jetson-orin-nano": 0.5}}}'
    )
    page.get_by_role("button", name="Launch").click()
    expect(page.locator("#told")).to_contain_text("finished", timeout=PATIENCE_MS)
    expect(page.locator("dd").first).to_have_text("3/3")
    for title in (
        "Accuracy over clients, %",
        "Participation: who",
        "Last client of each",
        "What a client's time",
        "Energy by device",
    ):
        expect(page.get_by_role("img", name=title).locator("svg").first).to_be_visible()
    expect(page.locator("#log")).to_contain_text("round 3/3")
    page.screenshot(path=pictures / "experiment.png", full_page=True)
    first = page.url.rsplit("/", 1)[1]

    second = server.client.submit(LONG.to_dict())["id"]
    page.goto(f"{server.url}/#/e/{second}")
    expect(page.locator("dd").first).not_to_have_text("0/500", timeout=PATIENCE_MS)
    seen = page.locator("dd").first.inner_text()
    expect(page.locator("dd").first).not_to_have_text(seen)  # rounds arrive without a reload
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#told")).to_contain_text("cancelled")

    page.get_by_role("link", name="Experiments").click()
    for experiment in (first, second):
        page.get_by_label(f"compare {experiment}").check()
    page.screenshot(path=pictures / "experiments.png", full_page=True)
    page.get_by_role("button", name="Compare chosen").click()
    expect(page.get_by_role("heading", name="What differs")).to_be_visible()
    expect(page.get_by_role("cell", name="federation.rounds", exact=True)).to_be_visible()
    expect(page.get_by_role("img", name="Accuracy against round")).to_be_visible()
    page.screenshot(path=pictures / "comparison.png", full_page=True)
    assert complaints == []


def test_it_fits_a_phone_in_the_dark_and_goes_by_keyboard(browser, server, pictures):
    complaints: list[str] = []
    server.client.submit(small("fedavg", "engine.workers=1").to_dict())
    page = open_page(browser, server, complaints, viewport={"width": 360, "height": 740}, color_scheme="dark")
    expect(page.get_by_role("table")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="New experiment")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="New experiment")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.screenshot(path=pictures / "phone.png")
    assert complaints == []
