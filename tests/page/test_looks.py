"""Phones, light and dark, contrast, and people who want no motion."""

import pytest
from playwright.sync_api import expect

from tests.page.conftest import sideways
from tests.page.pages import classify, drop

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "device_scale_factor": 2}
# Text on what it stands on: at least 4.5 (WCAG AA); edges and bars: at least 3.
READABLE = [
    ("text", "surface", 4.5),
    ("text", "ground", 4.5),
    ("text", "inset", 4.5),
    ("muted", "surface", 4.5),
    ("muted", "ground", 4.5),
    ("accent", "surface", 4.5),
    ("on-accent", "accent", 4.5),
    ("warn", "warn-ground", 4.5),
    ("error", "error-ground", 4.5),
    ("edge", "surface", 3),
    ("base", "surface", 3),
]


@pytest.mark.parametrize("task", ["banking", "emotion", "spam", "hostile", "customer-9"])
def test_nothing_is_wider_than_a_phone(visit, url, task):
    page = visit(f"{url}/?task={task}", **PHONE)
    page.get_by_label("Compare with unadapted").check()
    classify(page, "word " * 20 + "x" * 10)
    expect(page.get_by_role("article")).to_be_visible()
    assert sideways(page) <= 0
    page.get_by_role("combobox").click()
    assert sideways(page) <= 0


def test_a_wide_file_and_an_error_are_no_wider_than_a_phone(visit, url):
    page = visit(f"{url}/?task=banking", **PHONE)
    columns = ",".join(f"a long column name {number}" for number in range(12))
    drop(page, "n" * 120 + ".csv", f"text,{columns}\r\n{'w ' * 1000}\r\n")
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert sideways(page) <= 0


def test_results_come_into_sight_on_a_phone(visit, url):
    page = visit(f"{url}/?task=banking", **PHONE)
    classify(page, "I forgot my PIN")
    expect(page.get_by_role("heading", name="Results")).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_in(visit, url, scheme):
    page = visit(url, color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(*rgb(ground)) < 0.5) == (scheme == "dark")
    for text, behind, least in READABLE:
        seen, under = (colour(page, name) for name in (text, behind))
        assert contrast(seen, under) >= least, (text, behind)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_on_the_heatmap_are_readable_in(visit, url, scheme):
    page = visit(f"{url}/?task=banking", color_scheme=scheme)
    for kind in ("cool", "warm"):
        strongest = page.evaluate(
            """(hue) => {
              const probe = document.createElement("td");
              probe.className = hue;
              probe.style.setProperty("--share", 1);
              document.querySelector(".heatmap tbody tr").append(probe);
              return getComputedStyle(probe).backgroundColor;
            }""",
            kind,
        )
        assert contrast(colour(page, "text"), rgb(strongest)) >= 4.5


def test_nothing_moves_for_who_wants_no_motion(visit, url):
    page = visit(url, reduced_motion="reduce")
    classify(page, "I forgot my PIN")
    bar = "getComputedStyle(document.querySelector('article .bar'), '::before').transitionDuration"
    assert page.evaluate(bar) == "0s"
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def colour(page, name):
    """A colour of the page's palette as red, green and blue in [0, 1]."""
    return rgb(
        page.evaluate(
            """(name) => {
              const probe = document.createElement("i");
              probe.style.color = `var(--${name})`;
              document.body.append(probe);
              return getComputedStyle(probe).color;
            }""",
            name,
        )
    )


def rgb(text):
    """ "rgb(1, 2, 3)", or "color(srgb 0.1 0.2 0.3)" of a mixed colour."""
    numbers = [float(n) for n in text.split("(")[1].strip(")").replace(",", " ").split()[-3:]]
    return numbers if text.startswith("color") else [number / 255 for number in numbers]


def luminance(*channels):
    """Relative luminance (WCAG)."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    dark, light = sorted((luminance(*one), luminance(*other)))
    return (light + 0.05) / (dark + 0.05)
