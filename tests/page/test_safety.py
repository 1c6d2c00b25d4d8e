"""Nothing a task, a text or a file says is run, and nothing is fetched from elsewhere.

Every test of the page also ends with the latter: see `visit`.
"""

import httpx
import pytest
from playwright.sync_api import expect

from api.http.page import STATIC
from tests.page.conftest import MARKUP
from tests.page.pages import classify, drop


def test_a_hostile_task_is_shown_letter_by_letter(visit, url):
    page = visit(f"{url}/?task=hostile")
    card = page.get_by_role("complementary")
    assert MARKUP in card.locator(".template").inner_text()
    expect(card.locator(".labels li").first).to_contain_text(MARKUP)
    expect(card.locator(".tried th[scope=row]")).to_contain_text(MARKUP)
    expect(card.locator(".scores th[scope=row]").first).to_contain_text(MARKUP)
    page.get_by_label("Compare with unadapted").check()
    classify(page, MARKUP)
    expect(page.locator(".quoted")).to_have_text(MARKUP)
    expect(page.locator(".verdict strong")).to_contain_text(MARKUP)
    expect(page.get_by_role("article").locator("img, script")).to_have_count(0)
    assert page.title() == "hostile · ifedicl-serve"


def test_a_hostile_file_is_shown_letter_by_letter(visit, url):
    page = visit(f"{url}/?task=hostile")
    drop(
        page,
        f"{MARKUP}.csv",
        f"text,{MARKUP.replace(',', '')}\r\nfine,{MARKUP}\r\n".replace('"', "'"),
    )
    expect(page.locator("#preview td").nth(1)).to_contain_text("<script>")
    expect(page.locator("#sheet-name")).to_contain_text(MARKUP)
    expect(page.locator("#sheet img, #sheet script")).to_have_count(0)


def test_a_hostile_address_is_an_error_in_words(visit, url, browser):
    page = browser.new_page()
    page.goto(f"{url}/?task=" + "%3Cimg%20src%3Dx%20onerror%3D%22document.title%3D1%22%3E")
    expect(page.get_by_role("alert")).to_contain_text("is not loaded")
    expect(page.get_by_role("alert").locator("img")).to_have_count(0)
    assert "ifedicl-serve" in page.title()
    page.close()


def test_script_that_got_into_the_page_would_not_run(browser, url):
    """The policy is in force, not only sent."""
    page = browser.new_page()
    page.goto(url)
    refusals = []
    page.on("console", lambda message: refusals.append(message.text))
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "document.title = 'run'";
          document.body.append(script);
        }"""
    )
    assert page.title() != "run"
    failed = page.evaluate("fetch('http://127.0.0.1:9/').then(() => false, () => true)")
    assert failed
    assert any("Content Security Policy" in text for text in refusals)
    page.close()


@pytest.mark.parametrize("path", ["/", *(f"/page/{file.name}" for file in STATIC.iterdir())])
def test_every_file_is_sent_with_the_policy(url, path):
    response = httpx.get(f"{url}{path}")
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    again = httpx.get(f"{url}{path}", headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_files_beside_the_page_are_not_served(url):
    for path in ("/page/../page.py", "/page/%2e%2e/page.py", "/page/nothing.js", "/page/"):
        assert httpx.get(f"{url}{path}").status_code == 404


def test_the_page_is_no_part_of_the_api(url):
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert all(path.startswith("/v1/") or path == "/ready" for path in paths)
