"""What vLLM counts against the bounds of its queue, and what it does not."""

from argparse import Namespace
from functools import partial

import pytest
from vllm.exceptions import MaxQueuedTokensError, QueueOverflowError
from vllm.v1.engine.async_llm import AsyncLLM

from api.classify.engine import new_request_id
from api.vllm.admission import admit_classifications


@pytest.mark.parametrize(
    ("requests", "tokens", "error"),
    [(8, None, QueueOverflowError), (None, 8, MaxQueuedTokensError)],
)
def test_vllms_bounds_of_its_queue_are_for_its_own_routes(requests, tokens, error):
    """A text may be more engine requests than they allow at once; `Admission` counts texts."""
    full = Namespace(
        scheduler_config=Namespace(max_num_queued_reqs=requests, max_num_queued_tokens=tokens),
        admission_stats=None,
        get_num_unfinished_requests=lambda: 8,
        get_num_queued_tokens=lambda: 8,
        _record_admission_rejection=lambda reason: None,
    )
    full.check_admission = partial(AsyncLLM.check_admission, full)
    admit_classifications(full)
    full.check_admission(request_id=f"{new_request_id()}-1a2b3c4d")
    for own in ({}, {"n": 2}, {"request_id": "cmpl-1"}, {"request_id": "classify:sst2:x"}):
        with pytest.raises(error):
            full.check_admission(**own)
