"""Texts in, label bars and timings out; what is shown is what the API answers."""

import re
import shutil

import pytest
from playwright.sync_api import expect

from tests.ifedicl_serve.factory import make_artifact
from tests.page.pages import answers, classify, values

TEXT = "My new card has still not arrived"
LINES = ["I forgot my PIN", "when will my transfer arrive?", "my refund is missing"]


@pytest.fixture
def page(visit, url):
    return visit(f"{url}/?task=banking")


def test_a_text_gets_the_five_best_labels_and_the_others_on_demand(page, url):
    classify(page, TEXT)
    (expected,) = answers(url, "banking", [TEXT])
    shown = [f"{100 * score['score']:.1f}%" for score in expected["scores"]]
    article = page.get_by_role("article")
    expect(article).to_contain_text(TEXT)
    expect(article.locator(".verdict strong")).to_have_text(expected["label"])
    assert values(article) == shown[:5]
    article.get_by_role("button", name="Show all 8 labels").click()
    assert values(article) == shown
    article.get_by_role("button", name="Show fewer labels").click()
    assert values(article) == shown[:5]


def test_bars_are_as_long_as_their_labels_are_likely(page, url):
    classify(page, TEXT)
    (expected,) = answers(url, "banking", [TEXT])
    page.wait_for_function("document.getAnimations().length === 0")
    lengths = page.eval_on_selector_all(
        "article tr:not([hidden]) .bar",
        """bars => bars.map(bar =>
          parseFloat(getComputedStyle(bar, '::before').width) / bar.getBoundingClientRect().width)
        """,
    )
    assert len(lengths) == 5
    for length, score in zip(lengths, expected["scores"], strict=False):
        assert length == pytest.approx(score["score"], abs=0.02)


def test_a_whole_text_may_have_several_lines(page, url):
    classify(page, "\n".join(LINES))
    expect(page.get_by_role("article")).to_have_count(1)
    (expected,) = answers(url, "banking", ["\n".join(LINES)])
    expect(page.locator(".verdict strong")).to_have_text(expected["label"])


def test_one_text_per_line_gives_one_result_each_in_order(page, url):
    page.get_by_role("radio", name="One per line").check()
    classify(page, "\n\n".join(LINES) + "\n")
    expected = [answer["label"] for answer in answers(url, "banking", LINES)]
    expect(page.get_by_role("article")).to_have_count(3)
    expect(page.locator(".verdict strong")).to_have_text(expected)
    expect(page.locator(".quoted")).to_have_text(LINES)


def test_many_lines_go_in_batches_and_are_shown_fifty_at_a_time(page):
    page.get_by_role("radio", name="One per line").check()
    sizes = []
    page.on("request", lambda r: r.post_data_json and sizes.append(len(r.post_data_json["input"])))
    classify(page, "\n".join(f"question {number}" for number in range(130)))
    expect(page.get_by_role("status")).to_contain_text("130 texts classified")
    assert sizes == [64, 64, 2]
    expect(page.get_by_role("article")).to_have_count(50)
    page.get_by_role("button", name="Show more (80 left)").click()
    expect(page.get_by_role("article")).to_have_count(100)


def test_each_request_tells_its_round_trip_and_its_tokens(page, url):
    classify(page, TEXT)
    (expected,) = answers(url, "banking", [TEXT])
    row = page.get_by_role("table", name="Timings").locator("tbody tr")
    expect(row.locator("td")).to_have_text(
        ["1", re.compile(r"^\d+ ms$"), str(expected["prompt_tokens"]), "3"]
    )


# -- beside the base model


def test_adapted_and_unadapted_stand_side_by_side(page, url):
    page.get_by_label("Compare with unadapted").check()
    classify(page, TEXT)
    (adapted,) = answers(url, "banking", [TEXT])
    (unadapted,) = answers(url, "banking", [TEXT], adapted=False)
    base = {score["label"]: score["score"] for score in unadapted["scores"]}
    expect(page.get_by_role("columnheader")).to_contain_text(["Adapted", "Unadapted"])
    page.get_by_role("button", name="Show all 8 labels").click()
    expected = [
        f"{100 * share:.1f}%"
        for score in adapted["scores"]
        for share in (score["score"], base[score["label"]])
    ]
    assert values(page.get_by_role("article")) == expected
    expect(page.get_by_role("table", name="Timings").locator("tbody tr")).to_have_count(2)


def test_both_sides_have_the_same_scale(page):
    page.get_by_label("Compare with unadapted").check()
    classify(page, TEXT)
    widths = page.eval_on_selector_all(
        "article tr:not([hidden]) .bar", "bars => bars.map(bar => bar.clientWidth)"
    )
    assert max(widths) - min(widths) <= 1


def test_a_changed_top_label_is_marked_and_never_folded_away(page, url):
    page.get_by_role("radio", name="One per line").check()
    page.get_by_label("Compare with unadapted").check()
    texts = [f"question {number}" for number in range(12)]
    classify(page, "\n".join(texts))
    after, before = (answers(url, "banking", texts, adapted=state) for state in (True, False))
    changed = [one["label"] != two["label"] for one, two in zip(after, before, strict=True)]
    assert 0 < sum(changed)
    expect(page.locator(".summary")).to_have_text(
        f"Adaptation changes the top label of {sum(changed)} of 12 texts."
    )
    articles = page.get_by_role("article").all()
    for article, is_changed, base in zip(articles, changed, before, strict=True):
        assert article.locator(".changed").is_visible() == is_changed
        row = article.get_by_role("row").filter(has=page.get_by_text(base["label"], exact=True))
        expect(row.locator(".unadapted")).to_be_visible()


def test_comparing_asks_for_the_same_texts_twice(page):
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data_json))
    page.get_by_label("Compare with unadapted").check()
    classify(page, TEXT)
    assert bodies == [
        {"task": "banking", "truncate": False, "input": [TEXT]},
        {"task": "banking", "truncate": False, "adapted": False, "input": [TEXT]},
    ]


# -- tasks


def test_the_task_is_found_by_typing_and_stands_in_the_address(page):
    page.get_by_role("combobox").click()
    page.get_by_role("combobox").fill("mer-1")
    options = page.get_by_role("option")
    expect(options).to_have_text([f"customer-{n}" for n in [1, *range(10, 20)]])
    options.nth(2).click()
    expect(page).to_have_url(re.compile(r"/\?task=customer-11$"))
    expect(page.get_by_role("heading", name="customer-11")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="banking")).to_be_visible()
    expect(page.get_by_role("combobox")).to_have_value("banking")


def test_a_task_that_came_meanwhile_is_offered(page, registry):
    folder = registry.folder / "a-new-one"
    make_artifact(folder, name="a-new-one")
    registry.refresh()
    try:
        page.get_by_role("combobox").click()
        expect(page.get_by_role("option").first).to_have_text("a-new-one")
    finally:
        shutil.rmtree(folder)
        registry.refresh()


def test_a_long_list_of_tasks_is_cut_and_says_so(page):
    page.get_by_role("combobox").click()
    expect(page.get_by_role("option")).to_have_count(50)
    expect(page.get_by_role("listbox")).to_contain_text("24 more: keep typing")


def test_another_tasks_results_do_not_stay(page):
    classify(page, TEXT)
    page.get_by_role("combobox").fill("customer-7")
    page.get_by_role("option").first.click()
    expect(page.get_by_role("article")).to_have_count(0)


def test_a_late_error_of_an_earlier_task_leaves_the_card_of_the_present_one(page):
    held = []
    page.route("**/v1/tasks/customer-7", lambda route: held.append(route))
    with page.expect_request("**/v1/tasks/customer-7"):
        page.get_by_role("combobox").fill("customer-7")
        page.get_by_role("option").first.click()
    page.go_back()
    expect(page.get_by_role("combobox")).to_have_value("banking")
    with page.expect_response("**/v1/tasks/customer-7"):
        held[0].fulfill(status=404, json={"error": {"message": "gone", "code": 404}})
    page.wait_for_timeout(200)  # for what must not come
    expect(page.locator("#card")).to_be_visible()
    expect(page.locator("body")).not_to_contain_text("gone")


def test_without_an_address_the_first_task_is_chosen(visit, url):
    expect(visit(url).get_by_role("combobox")).to_have_value("banking")


def test_refused_artifacts_are_told_with_their_reason(page):
    page.get_by_text("1 artifact refused").click()
    expect(page.locator("#refused li")).to_contain_text("damaged")
    expect(page.locator("#refused li")).to_contain_text("not a JSON object")
