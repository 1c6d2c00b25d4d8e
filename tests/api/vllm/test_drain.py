"""What becomes of classifications that a stopping engine drops (--shutdown-timeout 0)."""

import pytest
from vllm import PoolingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector

from api.limits.admission import Admission
from ifedicl_serve.errors import DrainingError


def aborted():
    """What vLLM's front end makes of the engine's word that it aborted a pooling request."""
    params = PoolingParams(task="classify")
    request = EngineCoreRequest(
        request_id="1", prompt_token_ids=[1], mm_features=None, sampling_params=None,
        pooling_params=params, arrival_time=0.0, lora_request=None, cache_salt=None,
        data_parallel_rank=None, external_req_id="1",
    )  # fmt: skip
    processor = OutputProcessor(None, log_stats=False)
    queue = RequestOutputCollector(params.output_kind, "1")
    processor.add_request(request, None, None, 0, queue)
    outputs = [EngineCoreOutput("1", new_token_ids=[], finish_reason=FinishReason.ABORT)]
    try:
        processor.process_outputs(outputs)
    except Exception as error:  # as `AsyncLLM`'s output handler does
        processor.propagate_error(error)
    return queue.get_nowait()


def test_vllm_has_no_answer_for_an_aborted_pooling_request_and_ours_is_503_while_draining():
    admission = Admission(8)
    with pytest.raises(AssertionError), admission.hold(1):
        aborted()
    with pytest.raises(DrainingError, match="send the request to another one"), admission.hold(1):
        admission.draining = True
        aborted()
    assert admission.requests == 0
