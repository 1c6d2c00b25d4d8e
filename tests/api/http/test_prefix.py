"""Page and API below a path prefix, behind either kind of proxy (../shared/cases 11).

`ifedicl serve --root-path /llm`, which vLLM hands to FastAPI: a proxy that strips the prefix asks
for `/page/app.js`, one that does not for `/llm/page/app.js`.
"""

import re

import pytest

from api.http.page import STATIC
from tests.api.access.test_access import bearer
from tests.api.conftest import application, running
from tests.api.fake_engine import FakeEngine

ROOT = "/llm"
PROXIES = pytest.mark.parametrize("below", ["", ROOT], ids=["stripping", "not-stripping"])


@pytest.fixture(scope="module")
def client(registry, tokenizer):
    app = application(registry, tokenizer, FakeEngine(), api_keys=["key"])
    app.root_path = ROOT
    with running(app) as client:
        yield client


@PROXIES
def test_case_11_the_page_and_every_file_of_it_are_there(client, below):
    page = client.get(f"{below}/")
    assert page.status_code == 200
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {"page/app.js", "page/style.css"} <= set(linked)  # relative: below any prefix
    for path in {*linked, *(f"page/{file.name}" for file in STATIC.iterdir())}:
        response = client.get(f"{below}/{path}")
        assert (response.status_code, path) == (200, path)
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert client.head(f"{below}/{path}").status_code == 200


@PROXIES
def test_case_11_the_api_is_there_and_behind_its_keys(client, below):
    body = {"task": "sst2", "input": "fine"}
    assert client.get(f"{below}/ready").status_code == 200
    assert client.post(f"{below}/v1/classify", json=body).status_code == 401
    answer = client.post(f"{below}/v1/classify", json=body, headers=bearer("key"))
    assert answer.status_code == 200
    assert client.get(f"{below}/v1/tasks/sst2", headers=bearer("key")).status_code == 200


def test_who_asks_for_the_prefix_alone_is_sent_to_the_page(client):
    """Its links are relative, so they need the slash."""
    response = client.get(ROOT)
    assert response.status_code == 307
    assert response.headers["location"] == f"{client.base_url}{ROOT}/"


@pytest.mark.parametrize(
    "path", ["/llmready", "/llm/llm/ready", "/llm/page/../v1/tasks", "/llmpage/x"]
)
def test_what_only_looks_like_the_prefix_opens_nothing(client, path):
    assert client.get(path).status_code in (401, 404)
