"""All that the plugin changes of vLLM's own: one file a patch, one function that applies it.

Its docstring is the patch's obituary: what upstream does, why we patch it, when to delete it. Each
is idempotent, as vLLM asks of plugins. `register` applies the first four in every vLLM process,
an adapted model the other four when it is made.

    cache_salt    blocks of KV that a task adapts are found under the task alone
    malformed     what cannot be read under our key fails alone
    failures      generations whose task could not be loaded end with an error
    runner_v1     the V1 model runner points tokens at slots
    sites         the two sites of every layer inject
    stage_marks   what failed on one pipeline stage fails on the next
    lora_head     no LoRA adapter of lm_head
    nan_counts    vLLM counts NaN in logits, which `failures` reads

The names of vLLM's that all this stands on are a table, tests/upstream/surface.py.
"""
