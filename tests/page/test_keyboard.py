"""Everything without a mouse."""

import re

import pytest
from playwright.sync_api import expect


@pytest.fixture
def page(visit, url):
    return visit(f"{url}/?task=banking")


@pytest.fixture
def press(page):
    def press(*keys):
        for key in keys:
            page.keyboard.press(key)

    return press


def test_the_page_opens_where_one_types(page):
    expect(page.locator("#texts")).to_be_focused()


@pytest.mark.parametrize("keys", ["Control+Enter", "Meta+Enter"])
def test_a_text_is_classified_from_where_it_was_typed(page, press, keys):
    page.keyboard.type("I forgot my PIN")
    press(keys)
    expect(page.get_by_role("article")).to_have_count(1)
    expect(page.locator("#texts")).to_be_focused()
    expect(page.get_by_role("status")).to_contain_text("1 text classified")


def test_enter_alone_is_a_new_line(page, press):
    page.keyboard.type("one")
    press("Enter")
    page.keyboard.type("two")
    expect(page.locator("#texts")).to_have_value("one\ntwo")
    expect(page.get_by_role("article")).to_have_count(0)


def test_the_whole_way_by_tab(page, press):
    """Task, input kind, comparison and button, each reached and used by keys alone."""
    page.get_by_role("combobox").focus()
    page.keyboard.type("customer-33")
    press("ArrowDown", "ArrowUp", "Enter")
    expect(page).to_have_url(re.compile("task=customer-33$"))
    press("Tab", "Tab", "ArrowRight")  # past the refused artifacts
    expect(page.get_by_role("radio", name="One per line")).to_be_checked()
    press("Tab")
    page.keyboard.type("one\ntwo")
    press("Tab", "Tab", "Space")  # past the other tasks
    expect(page.get_by_label("Compare with unadapted")).to_be_checked()
    press("Tab", "Tab")
    expect(page.get_by_role("button", name="Classify")).to_be_focused()
    press("Enter")
    expect(page.get_by_role("article")).to_have_count(2)


def test_arrows_walk_the_tasks_and_escape_leaves_them(page, press):
    combobox = page.get_by_role("combobox")
    combobox.focus()
    press("ArrowDown")
    expect(combobox).to_have_attribute("aria-expanded", "true")
    press("ArrowDown")
    expect(page.locator("#task-list .active")).to_have_text("customer-0")
    active = page.locator("#task-list .active").get_attribute("id")
    expect(combobox).to_have_attribute("aria-activedescendant", active)
    press("ArrowUp", "ArrowUp")
    expect(page.locator("#task-list .active")).to_have_text("customer-52")
    press("Escape")
    expect(combobox).to_have_attribute("aria-expanded", "false")
    expect(combobox).to_have_value("banking")


def test_enter_chooses_nothing_in_a_list_that_escape_closed(page, press):
    page.get_by_role("combobox").focus()
    press("ArrowDown", "ArrowDown", "Escape", "Enter")
    expect(page.get_by_role("combobox")).to_have_value("banking")
    expect(page).to_have_url(re.compile("task=banking$"))


def test_typing_what_no_task_is_called_changes_nothing(page, press):
    page.get_by_role("combobox").focus()
    page.keyboard.type("nobody")
    expect(page.get_by_role("listbox")).to_have_text("No such task")
    press("Enter", "Tab")
    expect(page.get_by_role("combobox")).to_have_value("banking")


def test_focus_is_seen_on_every_control(page, press):
    """None is skipped by Tab, and each has a ring (the radios and the file on their labels)."""
    page.get_by_role("combobox").focus()
    rings = []
    while page.evaluate("document.activeElement.id") != "submit":
        rings.append(
            page.evaluate(
                """() => {
                  const { activeElement: one } = document;
                  const seen = one.type === "radio" ? one.nextElementSibling : one;
                  return getComputedStyle(seen).outlineStyle;
                }"""
            )
        )
        press("Tab")
    assert len(rings) == 7 and set(rings) == {"solid"}
