"""The served OpenAPI document is the committed one: a change of the contract shows in review.

python -m tests.api.http.test_openapi        writes openapi.json anew

The committed one is that of a server with an admin key. Without, a server documents what it has.
"""

import json
import os
from pathlib import Path
from unittest.mock import patch

from fastapi import FastAPI

from api.access.admin_key import ADMIN_KEY_VARIABLE
from api.plugin import ClassifyEndpoints

COMMITTED = Path(__file__).parents[1] / "openapi.json"


def document():
    """Of a server with an admin key."""
    app = FastAPI()
    with patch.dict(os.environ, {ADMIN_KEY_VARIABLE: "any"}):
        ClassifyEndpoints().attach_router(app)
    return app.openapi()


def operations(document):
    return {
        (path, method): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_the_served_document_is_the_committed_one():
    assert json.loads(json.dumps(document())) == json.loads(COMMITTED.read_text()), (
        "the HTTP contract changed; if that is meant, run "
        "`python -m tests.api.http.test_openapi` and commit tests/api/openapi.json"
    )


def test_without_an_admin_key_only_what_changes_nothing_is_documented(client):
    committed = operations(json.loads(COMMITTED.read_text()))
    assert operations(client.get("/openapi.json").json()) == {
        key: operation for key, operation in committed.items() if operation["tags"] != ["admin"]
    }


def test_admin_operations_are_documented_with_their_key():
    admin = [o for o in operations(document()).values() if o["tags"] == ["admin"]]
    assert [operation["security"] for operation in admin] == [[{"HTTPBearer": []}]] * 3


def test_every_error_is_documented_in_its_own_shape():
    documented = operations(document())
    del documented["/ready", "get"]  # a probe: its body says what it is instead
    for operation in documented.values():
        for status, response in operation["responses"].items():
            if status >= "4":
                schema = response["content"]["application/json"]["schema"]
                assert schema["$ref"].endswith("/ErrorResponse")


def test_the_errors_of_classify_are_documented(client):
    responses = client.get("/openapi.json").json()["paths"]["/v1/classify"]["post"]["responses"]
    assert sorted(responses) == [
        "200", "400", "404", "408", "413", "415", "422", "503", "504",
    ]  # fmt: skip


def test_the_path_of_vllm_is_not_documented_twice(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert sorted(paths) == [
        "/ready",
        "/v1/classify",
        "/v1/jobs",
        "/v1/jobs/{id}",
        "/v1/tasks",
        "/v1/tasks/{name}",
        "/v1/tasks/{name}/fitted",
    ]


if __name__ == "__main__":
    COMMITTED.write_text(json.dumps(document(), indent=2) + "\n")
    print(f"wrote {COMMITTED}")
