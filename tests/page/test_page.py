"""The page as a reader has it: drawn, hovered over, sorted, narrow and wide, light and dark, printed, by Chromium.

Run by `make page-test`; set LOSSLESS_PAGE_PHOTOGRAPHS to a folder to look at the pages.
"""

import base64
import re

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

import lossless
from lossless._evaluate.text import printable
from lossless._report import Curve, Figure, Panel, Series, Table, build_comparison_page, build_page
from lossless._report.page import render

HOSTILE = (
    "<img src=x onerror=\"document.title='taken'\">",
    "</script><script>document.title='taken'</script>",
    "\"' onmouseover=document.title='taken' x='",
    "{{7*7}}{% x %}${7*7}",
    "\u202eturned\u200f\u2028",
    "שלום עולם",
    "w" * 300,
)
NUMBERS = ("10", "9", "-", "inf", "1,234", "1.5e-05", "-2", "0.25")
TABLE = Table("Numbers", "", ("name", "value"), (False, True), tuple((f"n{i}", v) for i, v in enumerate(NUMBERS)))
CURVE = Curve("Learning", "", "epoch", "loss", tuple(Series(n, ((1, 2.0), (2, 1.0), (3, 0.5))) for n in HOSTILE[:4]))
PANEL = Panel("Added", HOSTILE[0], (Figure(HOSTILE[1], "1", HOSTILE[2]),), (CURVE,), HOSTILE, (TABLE,))


def predictions(rows, classes, **members):
    random = np.random.default_rng(rows)
    labels = random.integers(0, classes, rows)
    scores = random.normal(size=(rows, classes)) * 2
    scores[np.arange(rows), labels] += 4
    return {"logits": scores.astype(np.float32), "label": labels, **members}


def hostile():
    names = np.array(HOSTILE)
    return predictions(400, len(names), class_names=names, note=names[np.arange(400) % len(names)])


def misread():
    """Probabilities said to be logits: a finding, and notes."""
    probs = np.random.default_rng(4).dirichlet(np.ones(4), 400)
    labels = np.where(np.arange(400) < 20, -100, probs.argmax(1))
    return {"logits": probs, "label": labels}


def labels_of_a_row():
    random = np.random.default_rng(5)
    marks = random.integers(0, 2, (500, len(HOSTILE)))
    return {"logits": random.normal(size=marks.shape) + 2 * marks, "labels": marks, "class_names": np.array(HOSTILE)}


def one_score():
    label = np.random.default_rng(8).integers(0, 2, 300)
    return {
        "logits": np.random.default_rng(9).normal(size=(300, 1)) + label[:, None],
        "label": label,
        "class_names": np.array(HOSTILE[4:6]),
    }


def quantities():
    target = np.random.default_rng(6).normal(size=(1500, 2)) * (1, 50)
    return {"predictions": target + np.random.default_rng(7).normal(size=target.shape), "targets": target}


INPUTS = {
    "ordinary": lambda: predictions(3000, 10),
    "two": lambda: predictions(300, 2),
    "thousand": lambda: predictions(20000, 1000),
    "hostile": hostile,
    "misread": misread,
    "one-score": one_score,
    "multilabel": labels_of_a_row,
    "regression": quantities,
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages by name, each with a panel such as the demo has."""
    folder = tmp_path_factory.mktemp("pages")
    written = {}
    for name, make in INPUTS.items():
        data = folder / (f"{HOSTILE[0].replace('/', '')}.npz" if name == "hostile" else f"{name}.npz")
        members = make()
        np.savez(data, **members)
        said = {"logits": "logits"} if "logits" in members else {}
        page = build_page(lossless.evaluate(data, **said), panels=[PANEL])
        written[name] = folder / f"{name}.html"
        written[name].write_text(render(page), "utf-8")
    return written


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The page of two models, one of which is misread."""
    folder = tmp_path_factory.mktemp("compared")
    names = np.array(HOSTILE)
    a = predictions(3000, len(names), class_names=names)
    b = {**a, "logits": np.exp(a["logits"]) / np.exp(a["logits"]).sum(1, keepdims=True)}
    paths = [folder / f"{name}.npz" for name in ("a", "<b>b")]
    for path, members in zip(paths, (a, b), strict=True):
        np.savez(path, **members)
    page = folder / "page.html"
    page.write_text(render(build_comparison_page(lossless.compare(*paths, logits="logits"))), "utf-8")
    return page


@pytest.fixture(scope="module", params=["multilabel", "regression"])
def compared_of_task(request, tmp_path_factory):
    """The page of two models of several labels, or of quantities."""
    folder = tmp_path_factory.mktemp(f"compared-{request.param}")
    a = INPUTS[request.param]()
    name, scores = next((key, a[key]) for key in a if key in ("logits", "predictions"))
    paths = [folder / "a.npz", folder / "b.npz"]
    np.savez(paths[0], **a)
    np.savez(paths[1], **{**a, name: 1.5 * scores + 0.1})
    page = folder / "page.html"
    page.write_text(render(build_comparison_page(lossless.compare(*paths))), "utf-8")
    return page


@pytest.fixture(params=INPUTS)
def name(request):
    return request.param


def test_it_is_drawn_in_every_width_and_scheme(browser, pages, name, album):
    assert pages[name].stat().st_size < 2_000_000
    for width in (400, 1400):
        for scheme in ("light", "dark"):
            browser.open(pages[name], width=width, scheme=scheme)
            marks = [
                len(chart.find_elements("css selector", ".role-mark path")) for chart in browser.find(".chart svg")
            ]
            assert len(marks) == len(browser.find(".chart")) >= 2
            assert all(marks), marks
            assert browser.js("document.documentElement.scrollWidth") <= width
            assert browser.js("[...document.querySelectorAll('.chart')].every(c => c.scrollWidth <= c.clientWidth)")
            browser.photograph(album(f"{width}-{scheme}"))
    assert browser.complaints() == []


def test_a_comparison_is_drawn(browser, compared, album):
    assert compared.stat().st_size < 2_000_000
    for width in (400, 1400):
        for scheme in ("light", "dark"):
            browser.open(compared, width=width, scheme=scheme)
            assert len(browser.find(".chart .role-mark path")) > 10
            assert browser.js("document.documentElement.scrollWidth") <= width
            browser.photograph(album(f"{width}-{scheme}"))
    assert browser.find(".findings li")[0].text.startswith("WARNING")
    difference = browser.find("table")[0].find_elements("css selector", "th button")[3]
    difference.click()
    shown = browser.js("[...document.querySelector('table').tBodies[0].rows].map(r => Number(r.cells[3].textContent))")
    assert shown == sorted(shown)
    assert shown[0] < 0 < shown[-1]
    assert browser.complaints() == []


def test_a_comparison_of_any_task_is_drawn(browser, compared_of_task, album):
    assert compared_of_task.stat().st_size < 2_000_000
    for width in (400, 1400):
        browser.open(compared_of_task, width=width, scheme="light")
        assert len(browser.find(".chart .role-mark path")) > 10
        assert browser.js("document.documentElement.scrollWidth") <= width
        browser.photograph(album(f"{width}"))
    assert browser.complaints() == []


def test_colours_follow_the_scheme_and_can_be_read(browser, pages):
    browser.open(pages["misread"], scheme="light")
    seen = {}
    for scheme in ("light", "dark"):
        browser.see(scheme=scheme)
        for selector in ("body", "td", ".caption", ".severity", ".chart svg text", "th button", ".notes"):
            contrast, paper = browser.js(CONTRAST, selector)
            assert contrast >= 4.5, (scheme, selector, contrast)
            seen[scheme, selector] = paper
    assert seen["light", "body"] > 0.8
    assert seen["dark", "body"] < 0.05


# WCAG 2's contrast of the first such element's text with what is behind it, and the luminance of the latter.
CONTRAST = """(() => {
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const numbers = text => text.match(/[0-9.]+/g).map(Number);
  let element = document.querySelector(arguments[0]);
  const style = getComputedStyle(element);
  const ink = light(numbers(element.tagName === "text" && style.fill !== "currentcolor" ? style.fill : style.color));
  while (element.parentElement && numbers(getComputedStyle(element).backgroundColor)[3] === 0)
    element = element.parentElement;
  const paper = light(numbers(getComputedStyle(element).backgroundColor));
  return [(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), paper];
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hovering_tells_the_numbers(browser, pages, scheme, album):
    browser.open(pages["ordinary"], scheme=scheme)
    told = []
    for mark in ("reliability", "losses", "curve"):
        chart = browser.find(".chart")[("reliability", "losses", "curve").index(mark)]
        bars = chart.find_elements("css selector", ".role-mark path")
        bar = max(bars, key=lambda b: b.rect["height"] * b.rect["width"]) if mark != "curve" else bars[-1]
        browser.js("arguments[0].scrollIntoView({block: 'center'})", chart)
        ActionChains(browser.driver).move_to_element(bar).perform()
        browser.wait("document.querySelector('#vg-tooltip-element.visible') !== null")
        told.append(browser.find("#vg-tooltip-element")[0].text)
        browser.photograph(album(mark), whole=False)
    assert re.search(r"rows\s*[\d,]+", told[0])
    assert "confidence" in told[0]
    assert re.search(r"loss\s*[\d.e-]+ to [\d.e-]+\s*rows\s*[\d,]+", told[1])
    assert HOSTILE[3] in told[2]  # the line drawn last, by its name
    contrast, paper = browser.js(CONTRAST, "#vg-tooltip-element td.value")
    assert contrast >= 4.5
    assert (paper > 0.5) == (scheme == "light")
    assert browser.complaints() == []


def column(browser, index):
    """The cells of a column of the first table, which is that of the panel."""
    return browser.js(f"[...document.querySelector('table').tBodies[0].rows].map(r => r.cells[{index}].textContent)")


def sorts(browser):
    return browser.js("[...document.querySelectorAll('table')[0].tHead.rows[0].cells].map(c => c.ariaSort)")


def test_a_head_sorts_its_table(browser, pages):
    browser.open(pages["ordinary"])
    names, values = browser.find("table")[0].find_elements("css selector", "th button")
    assert sorts(browser) == [None, None]
    values.click()
    assert column(browser, 1) == ["-2", "1.5e-05", "0.25", "9", "10", "1,234", "inf", "-"]
    assert sorts(browser) == [None, "ascending"]
    values.click()
    assert column(browser, 1) == ["inf", "1,234", "10", "9", "0.25", "1.5e-05", "-2", "-"]
    assert sorts(browser) == [None, "descending"]
    assert column(browser, 0) == ["n3", "n4", "n0", "n1", "n7", "n5", "n6", "n2"]  # rows stay whole
    names.send_keys(Keys.ENTER)
    assert column(browser, 0) == [f"n{i}" for i in range(len(NUMBERS))]
    assert sorts(browser) == ["ascending", None]
    names.send_keys(Keys.TAB)
    assert browser.js("document.activeElement === arguments[0]", values)
    ActionChains(browser.driver).send_keys(Keys.SPACE).perform()
    assert sorts(browser) == [None, "ascending"]
    assert browser.complaints() == []


def test_averages_stay_below_the_classes_that_are_sorted(browser, pages):
    browser.open(pages["thousand"])
    table = "[...document.querySelectorAll('table')].at(-1)"
    foot = browser.js(f"{table}.tFoot.innerText")
    button = browser.find("table")[-1].find_elements("css selector", "th button")[4]
    browser.js("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    button.click()
    support = browser.js(f"[...{table}.tBodies[0].rows].map(r => Number(r.cells[4].textContent))")
    assert len(support) == 500
    assert support == sorted(support, reverse=True)
    assert browser.js(f"{table}.tFoot.innerText") == foot
    # the head stays in sight while the table is scrolled, and so do the averages
    top, head, bottom, low = browser.js(
        f"""(() => {{ const t = {table}, box = t.parentElement; box.scrollTop = 3000;
        return [box.getBoundingClientRect().top, t.tHead.rows[0].cells[0].getBoundingClientRect().top,
                box.getBoundingClientRect().bottom, t.tFoot.getBoundingClientRect().bottom]; }})()"""
    )
    assert head == pytest.approx(top, abs=1)
    assert low == pytest.approx(bottom, abs=1)


def test_nothing_from_data_is_run(browser, pages):
    browser.open(pages["hostile"])
    title = browser.js("document.title")
    assert title.endswith("· lossless")
    for button in browser.find("th button"):
        browser.js("arguments[0].click()", button)
    for chart in browser.find(".chart"):
        browser.js("arguments[0].scrollIntoView({block: 'center'})", chart)
        for mark in chart.find_elements("css selector", ".role-mark path")[-6:]:
            ActionChains(browser.driver).move_to_element(mark).perform()
    said = browser.js("document.body.innerText")
    for text in HOSTILE:
        assert " ".join(printable(text).split()) in " ".join(said.split())
    assert not set("\u202e\u200f\u2028") & set(browser.js("document.body.textContent"))
    assert browser.js("document.title") == title
    assert browser.js("document.querySelectorAll('img, iframe, link, object, body script:not([type])').length") == 2
    assert browser.complaints() == []


def test_findings_come_first_with_their_severity(browser, pages):
    browser.open(pages["misread"])
    first, *_ = browser.find(".findings li")
    assert first.find_element("css selector", ".severity").text == "WARNING"
    assert "softmax-before-loss" in first.text
    assert first.rect["y"] < browser.find(".chart")[0].rect["y"]
    assert first.rect["y"] < 900  # without scrolling
    assert "20 rows have the ignored label" in browser.find(".notes")[0].text


def test_without_scripts_the_tables_and_figures_are_there(browser, pages):
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.see()
        browser.driver.get(pages["ordinary"].as_uri())
        assert len(browser.find("tbody tr")) > 20
        assert browser.find("th button") == []
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize(("name", "sheets"), [("thousand", 8), ("hostile", 2)])
def test_it_prints_whole_and_light(browser, pages, name, sheets):
    browser.open(pages[name], scheme="dark", width=800)
    printed = browser.command("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"]
    pdf = base64.b64decode(printed)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= sheets  # 500 classes, not the few that a screen shows
    browser.command(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    contrast, paper = browser.js(CONTRAST, "td")
    assert paper > 0.9
    assert contrast >= 4.5
    # what a screen scrolls to fits on paper
    assert browser.js("[...document.querySelectorAll('.table')].every(t => t.scrollWidth <= t.clientWidth)")
