"""What we rely on of vLLM's own: the table of it, and what checks the table against a vLLM.

surface    the table: upstream name, what it must have, what it is to us, by file of ours
contact    where our sources import vLLM, and where they change what is not theirs
trees      finds names in a vLLM's sources, which it never imports
check      every row against a vLLM, and what differs from another one
__main__   `make vllm-surface VERSION=...`
"""
