"""The served OpenAPI document is the committed one: a change of the contract shows in review.

python -m tests.api.test_openapi        writes openapi.json anew
"""

import json
from pathlib import Path

from fastapi import FastAPI

from api.routes import router

COMMITTED = Path(__file__).parent / "openapi.json"


def test_the_served_document_is_the_committed_one(client):
    served = client.get("/openapi.json").json()
    assert served == json.loads(COMMITTED.read_text()), (
        "the HTTP contract changed; if that is meant, run `python -m tests.api.test_openapi` and "
        "commit tests/api/openapi.json"
    )


def test_every_error_is_documented_in_its_own_shape(client):
    operation = client.get("/openapi.json").json()["paths"]["/v1/classify"]["post"]
    shapes = {
        status: response["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for status, response in operation["responses"].items()
    }
    errors = dict.fromkeys(("400", "404", "422", "503"), "ErrorResponse")
    assert shapes == {"200": "ClassifyResponse"} | errors


def test_the_path_of_vllm_is_not_documented_twice(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert sorted(paths) == ["/v1/classify", "/v1/tasks", "/v1/tasks/{name}"]


if __name__ == "__main__":
    app = FastAPI()
    app.include_router(router)
    COMMITTED.write_text(json.dumps(app.openapi(), indent=2) + "\n")
    print(f"wrote {COMMITTED}")
