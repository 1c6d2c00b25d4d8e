"""Engine requests of a classification are counted by us, those of vLLM's own routes by vLLM."""

from typing import Any

from api.classify.engine import task_of


def admit_classifications(engine_client: Any) -> None:
    """Wrap this client's `check_admission`, which vLLM asks before it queues an engine request.

    Upstream: every one counts against --max-num-queued-reqs and --max-num-queued-tokens, in all API
    processes together (vllm/v1/engine/async_llm.py).
    Why: one text is many of them (trie nodes, 128 labels each), so a request that `Admission` let
    in could be refused half-way, whenever it is sent. The flags bound vLLM's own routes.
    Delete when vLLM bounds what callers send instead of what it makes of it.
    """
    check = engine_client.check_admission
    if hasattr(check, "admits_classifications"):
        return

    def check_admission(n: int = 1, request_id: str | None = None) -> None:
        if task_of(request_id) is None:
            check(n, request_id)

    check_admission.admits_classifications = True  # type: ignore[attr-defined]
    engine_client.check_admission = check_admission
