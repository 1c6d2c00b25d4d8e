"""All contact of `api` with what vLLM does not publish, one file each.

What changes something of vLLM's own is a patch: one function applies it, idempotently, and its
docstring says what upstream does, why we patch it, and when to delete it.

    admission    `check_admission` counts what callers send, not what we make of it
    border       `add_request` drops what callers send under our key, and names tasks itself
    drain        `shutdown` waits for classifications
    queue_time   a stat logger more
    generate     tasks are models of the completion routes
    listed       tasks are in the list of models
    plugins      VLLM_PLUGINS names ours
    counters     PROMETHEUS_MULTIPROC_DIR, so that workers count for /metrics
    upgrades     uvicorn answers who offers h2c over HTTP/1.1
    quiet        VLLM_LOGGING_LEVEL, so that a bar can be read
    command      the `main` of `vllm serve`, with room to configure the engine

`launch` and `offline` call vLLM as anybody may. The names of vLLM's that all this stands on are a
table, tests/upstream/surface.py.
"""
