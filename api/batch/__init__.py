"""`ifedicl classify`: a file of texts in, the same file with labels and scores out, offline.

cli        options, checks, what a person sees
run        the path: chunks of rows -> prompts -> scores -> parts -> output
sources    files read in chunks: parquet, csv, jsonl
sinks      the same formats written in chunks
columns    what is added to every row
parts      finished chunks on disk, which a killed run goes on from
engine     vLLM, offline
"""
