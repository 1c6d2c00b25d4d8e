"""Errors in the server's words, keys that it wants, and waits that it asks for."""

import pytest
from playwright.sync_api import expect
from starlette.responses import JSONResponse

from tests.page.conftest import serving
from tests.page.pages import classify

KEY = "sk-of-this-test"


class Guarded:
    """As vLLM's --api-key does: /v1 needs the key, with vLLM's short error."""

    def __init__(self, app):
        self.app = app
        self.key = KEY

    async def __call__(self, scope, receive, send):
        headers = dict(scope.get("headers", ()))
        sent = headers.get(b"authorization", b"").decode()
        if scope["type"] == "http" and scope["path"].startswith("/v1"):
            if sent != f"Bearer {self.key}":
                answer = JSONResponse({"error": "Unauthorized"}, status_code=401)
                return await answer(scope, receive, send)
        await self.app(scope, receive, send)


class Busy:
    """Refuses the next `refusals` requests to classify, and asks to come back."""

    def __init__(self, app, retry_after="1"):
        self.app = app
        self.refusals = 1
        self.retry_after = retry_after

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/v1/classify" and self.refusals:
            self.refusals -= 1
            error = {"message": "512 requests wait already.", "type": "TooManyRequestsError"}
            answer = JSONResponse(
                {"error": error | {"param": None, "code": 429}},
                status_code=429,
                headers={"Retry-After": self.retry_after},
            )
            return await answer(scope, receive, send)
        await self.app(scope, receive, send)


# -- errors


@pytest.fixture
def page(visit, url):
    return visit(f"{url}/?task=banking")


def test_an_error_is_shown_in_the_servers_words(page):
    page.locator("#texts").fill("long " * 400)
    page.get_by_role("button", name="Classify").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("the prompt for this text has")
    expect(alert).to_contain_text("422 UnprocessableEntityError")
    page.get_by_label("Cut texts that are too long").check()
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_role("article")).to_have_count(1)
    expect(alert).to_be_hidden()


def test_no_text_is_asked_for_without_a_request(page):
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_role("alert")).to_have_text("Type a text first.")
    assert not requests


def test_a_server_that_is_gone_is_named_as_that(page):
    page.route("**/v1/classify", lambda route: route.abort())
    page.locator("#texts").fill("anything")
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_role("alert")).to_have_text(
        "The server cannot be reached. Is it still running?"
    )


def test_an_error_that_is_no_json_is_told_by_its_number(page):
    page.route(
        "**/v1/classify", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>")
    )
    page.locator("#texts").fill("anything")
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_role("alert")).to_contain_text("The server answered 502.")


# -- keys


@pytest.fixture
def guarded(app):
    guard = Guarded(app)
    with serving(guard) as url:
        yield guard, url


@pytest.fixture
def locked(browser, guarded):
    """The page before any key was given."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{guarded[1]}/?task=banking")
    yield page
    context.close()


def give(page, key):
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Use key").click()


def test_the_key_is_asked_for_once_kept_in_the_tab_and_sent(locked):
    expect(locked.get_by_role("dialog")).to_contain_text("answers only with an API key")
    give(locked, KEY)
    expect(locked.get_by_role("complementary")).to_be_visible()
    classify(locked, "I forgot my PIN")
    assert locked.evaluate("Object.values(sessionStorage)") == [KEY]
    assert locked.evaluate("localStorage.length") == 0
    assert locked.context.cookies() == []
    assert KEY not in locked.content()
    locked.reload()
    expect(locked.get_by_role("complementary")).to_be_visible()
    expect(locked.get_by_role("dialog")).to_be_hidden()


def test_a_wrong_key_is_asked_for_again(locked):
    give(locked, "wrong")
    expect(locked.get_by_role("dialog")).to_contain_text("The server refused this key.")
    give(locked, KEY)
    expect(locked.get_by_role("complementary")).to_be_visible()


@pytest.mark.parametrize("key", ["schl\xfcssel", "two words"])
def test_case_10_a_key_that_no_request_could_send_is_not_taken(locked, key):
    """The server was said to be out of reach."""
    give(locked, key)
    assert locked.get_by_label("Key", exact=True).evaluate(
        "input => input.validity.patternMismatch"
    )
    expect(locked.get_by_role("dialog")).to_be_visible()
    assert locked.evaluate("sessionStorage.length") == 0
    give(locked, f" {KEY} ")
    expect(locked.get_by_role("complementary")).to_be_visible()


def test_who_has_no_key_is_told_why_there_is_nothing(locked):
    expect(locked.get_by_role("dialog")).to_be_visible()
    locked.keyboard.press("Escape")
    expect(locked.get_by_role("alert")).to_contain_text("Unauthorized")
    expect(locked.get_by_role("dialog")).to_be_hidden()


def test_a_key_that_is_withdrawn_is_asked_for_where_it_is_missed(locked, guarded):
    give(locked, KEY)
    expect(locked.get_by_role("complementary")).to_be_visible()
    guarded[0].key = "another"
    locked.locator("#texts").fill("I forgot my PIN")
    locked.get_by_role("button", name="Classify").click()
    give(locked, "another")
    expect(locked.get_by_role("article")).to_have_count(1)


def test_the_key_can_be_forgotten(locked):
    give(locked, KEY)
    expect(locked.get_by_role("complementary")).to_be_visible()
    locked.get_by_role("button", name="API key").click()
    give(locked, "")
    assert locked.evaluate("sessionStorage.length") == 0


# -- waits


def test_a_wait_that_the_server_asks_for_is_seen_and_kept(visit, app):
    with serving(Busy(app)) as url:
        page = visit(f"{url}/?task=banking")
        statuses = []
        page.on("response", lambda response: statuses.append(response.status))
        page.locator("#texts").fill("I forgot my PIN")
        page.get_by_role("button", name="Classify").click()
        expect(page.locator("#wait")).to_contain_text("512 requests wait already. Trying again in")
        expect(page.get_by_role("article")).to_have_count(1)
        expect(page.locator("#wait")).to_be_hidden()
        assert statuses == [429, 200]


def test_a_wait_can_be_stopped(visit, app):
    with serving(Busy(app, retry_after="3600")) as url:
        page = visit(f"{url}/?task=banking")
        page.locator("#texts").fill("I forgot my PIN")
        page.get_by_role("button", name="Classify").click()
        expect(page.locator("#wait")).to_contain_text(" s.")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#wait")).to_be_hidden()
        expect(page.get_by_role("status")).to_have_text("Stopped.")
        expect(page.get_by_role("button", name="Classify")).to_be_enabled()


def test_waiting_ends_after_some_tries(visit, app):
    busy = Busy(app, retry_after="0")
    busy.refusals = 1000
    with serving(busy) as url:
        page = visit(f"{url}/?task=banking")
        page.locator("#texts").fill("I forgot my PIN")
        page.get_by_role("button", name="Classify").click()
        expect(page.get_by_role("alert")).to_contain_text("429 TooManyRequestsError")
        assert busy.refusals == 994
