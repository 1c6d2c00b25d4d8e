"""HTTP: routes and errors over an engine; vllm is imported in `engine.py` and `serve.py` alone."""
