"""Classification over HTTP and of files.

vllm is imported when something is done with it, never with a module of ours but `vllm.queue_time`;
tests/upstream/surface.py says where and what.
"""
