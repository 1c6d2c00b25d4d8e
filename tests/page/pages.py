"""What tests of the page do again and again."""

import httpx


def classify(page, text):
    """Type a text and wait for its results."""
    page.locator("#texts").fill(text)
    page.get_by_role("button", name="Classify").click()
    page.get_by_role("article").first.wait_for()


def answers(url, task, texts, **options):
    """What the API answers, per text."""
    response = httpx.post(
        f"{url}/v1/classify", json={"task": task, "input": texts, **options}, timeout=60
    )
    return response.json()["data"]


def values(locator):
    """The percentages beside the bars that are shown, row by row."""
    return [value.inner_text() for value in locator.locator(".value").all() if value.is_visible()]


def file(name, content):
    """A file for `set_input_files`."""
    raw = content if isinstance(content, bytes) else content.encode()
    return {"name": name, "mimeType": "text/csv", "buffer": raw}


def drop(page, name, content):
    """Drop a file onto the page."""
    transfer = page.evaluate_handle(
        """([name, content]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([content], name, { type: "text/csv" }));
          return transfer;
        }""",
        [name, content],
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
