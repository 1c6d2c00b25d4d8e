"""Classification over HTTP and of files.

vllm is imported in `engine.py`, `serve.py` and `batch/engine.py` alone.
"""
