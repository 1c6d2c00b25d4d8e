"""vLLM plugin: registers task-adapted model architectures. Free to import until called."""
