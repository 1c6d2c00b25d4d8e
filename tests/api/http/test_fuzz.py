"""Every documented route under inputs made up from the served OpenAPI document (schemathesis):
whatever is sent, the answer is a documented one. 500 is not documented; 504 is, for a timeout of
a nanosecond.

IFEDICL_FUZZ_EXAMPLES=2000 makes it a long run.
"""

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.access.admin_key import ADMIN_KEY_VARIABLE
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.api.conftest import application, running
from tests.api.fake_engine import FakeEngine
from tests.api.http.test_openapi import document
from tests.ifedicl_serve.factory import MODEL, make_artifact

EXAMPLES = int(os.environ.get("IFEDICL_FUZZ_EXAMPLES", 40))
KEY = "of-the-operator"
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def url(tokenizer, tmp_path_factory):
    """A server of one task, which fuzzing may replace or delete."""
    folder = tmp_path_factory.mktemp("fuzzed")
    make_artifact(folder / "sst2")
    registry = TaskRegistry(folder, MODEL, tokenizer)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(ADMIN_KEY_VARIABLE, KEY)
        app = application(registry, tokenizer, FakeEngine())
    with running(app) as client:
        yield str(client.base_url)


fuzzing = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
schema = schemathesis.openapi.from_dict(document())


@schema.parametrize()
@fuzzing
def test_whatever_is_sent_the_answer_is_a_documented_one(case, url):
    case.headers = {**(case.headers or {}), "Authorization": f"Bearer {KEY}"}
    case.call_and_validate(base_url=url, checks=CHECKS, timeout=30)


@schema.include(path="/v1/classify").parametrize()
@fuzzing
def test_classify_with_a_task_that_exists(case, url):
    """Made-up names hit no task: here only the rest is made up."""
    if isinstance(case.body, dict):
        case.body = {**case.body, "task": "sst2"}
        case.body.pop("model", None)
        case.body.pop("tasks", None)
    case.call_and_validate(base_url=url, checks=CHECKS, timeout=30)


@schema.include(path="/v1/classify").parametrize()
@fuzzing
def test_classify_with_tasks_of_which_one_exists(case, url):
    if isinstance(case.body, dict):
        others = case.body.get("tasks")
        others = others if isinstance(others, list) else []
        case.body = {**case.body, "tasks": ["sst2", *others]}
        case.body.pop("model", None)
        case.body.pop("task", None)
    case.call_and_validate(base_url=url, checks=CHECKS, timeout=30)
