"""Several tasks on one text: chosen by keys, shown side by side, each as it answers alone."""

import re

import pytest
from playwright.sync_api import expect

from tests.page.conftest import sideways
from tests.page.pages import answers, classify, values

TEXT = "My new card has still not arrived"


@pytest.fixture
def page(visit, url):
    return visit(f"{url}/?task=banking")


def add(page, name):
    """By keys alone."""
    field = page.get_by_role("combobox", name="Add a task")
    field.fill(name)
    field.press("Enter")


def unfold(page):
    page.get_by_text("Compare with other tasks").click()


def named(page):
    return page.get_by_role("article").get_by_role("heading")


def shown(scores):
    return [f"{100 * score['score']:.1f}%" for score in scores[:5]]


def test_each_task_answers_beside_the_others_as_alone(page, url):
    unfold(page)
    add(page, "spam")
    add(page, "emotion")
    expect(page).to_have_url(re.compile(r"/\?task=banking&task=spam&task=emotion$"))
    classify(page, TEXT)
    expect(named(page)).to_have_text(["banking", "spam", "emotion"])
    expect(page.get_by_role("status")).to_contain_text("1 text classified by 3 tasks")
    expected = [answers(url, task, [TEXT])[0] for task in ("banking", "spam", "emotion")]
    labels = [answer["label"] for answer in expected]
    expect(page.locator(".verdict strong")).to_have_text(labels)
    percentages = [one for answer in expected for one in shown(answer["scores"])]
    assert values(page.get_by_role("article")) == percentages


def test_several_are_one_request_and_one_is_as_ever(page):
    bodies = []
    page.on("request", lambda request: request.post_data and bodies.append(request.post_data_json))
    unfold(page)
    add(page, "spam")
    classify(page, TEXT)
    page.get_by_role("button", name="Remove spam").press("Enter")
    expect(page.get_by_role("combobox", name="Add a task")).to_be_focused()
    expect(page.get_by_role("article")).to_have_count(0)
    classify(page, TEXT)
    assert bodies == [
        {"tasks": ["banking", "spam"], "truncate": False, "input": [TEXT]},
        {"task": "banking", "truncate": False, "input": [TEXT]},
    ]


def test_what_is_chosen_already_is_not_offered_again(page):
    unfold(page)
    add(page, "spam")
    field = page.get_by_role("combobox", name="Add a task")
    expect(field).to_have_value("")
    for name in ("banking", "spam"):
        field.fill(name)
        expect(page.get_by_role("option")).to_have_count(0)
        expect(page.get_by_text("No such task")).to_be_visible()


def test_the_address_names_them_and_back_leads_back(visit, url):
    page = visit(f"{url}/?task=banking&task=spam&task=emotion")
    removers = page.get_by_role("list", name="Other tasks").get_by_role("button")
    expect(removers).to_have_text(["spam ×", "emotion ×"])
    removers.first.click()
    expect(page).to_have_url(re.compile(r"/\?task=banking&task=emotion$"))
    page.go_back()
    expect(removers).to_have_text(["spam ×", "emotion ×"])


def test_all_are_compared_with_the_base_model(page):
    unfold(page)
    add(page, "spam")
    page.get_by_label("Compare with unadapted").check()
    classify(page, TEXT)
    expect(page.locator(".scores.compared")).to_have_count(2)
    expect(page.locator(".summary")).to_have_text(re.compile(r"of \d of 2 answers\.$"))


def test_a_task_that_cannot_answer_says_so_in_its_place(page, app, registry):
    engine = app.state.ifedicl_classifier.engine
    engine.unavailable.add(registry.get("emotion").digest)
    unfold(page)
    add(page, "emotion")
    classify(page, TEXT)
    engine.unavailable.clear()
    expect(named(page)).to_have_text(["banking", "emotion"])
    expect(page.locator("article .verdict")).to_have_count(1)
    expect(page.locator("article .error")).to_contain_text("could not be loaded by the engine")


def test_on_a_phone_they_stand_below_each_other(visit, url):
    page = visit(f"{url}/?task=banking&task=spam", viewport={"width": 360, "height": 740})
    classify(page, TEXT)
    tops = page.eval_on_selector_all(
        ".beside > section", "all => all.map(one => one.getBoundingClientRect().top)"
    )
    assert len(tops) == 2 and tops[0] < tops[1]
    assert sideways(page) <= 0


def test_a_file_is_classified_by_the_first(visit, url):
    page = visit(f"{url}/?task=banking&task=spam")
    page.get_by_role("radio", name="CSV file").check()
    expect(page.get_by_text("Compare with other tasks")).to_be_hidden()
