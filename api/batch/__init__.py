"""`ifedicl classify`: a file of texts in, the same file with labels and scores out, offline.

command    options, what a person sees
job        from options to a run: every check that needs no engine
run        the path: chunks of rows -> prompts -> scores -> parts -> output
source     the input in chunks
carried    how its rows travel: as columns, or as texts of JSON
columns    what is added to every row
parts      finished chunks on disk, which a killed run goes on from
offline    the engine: vLLM

Formats of files are known in `ifedicl_serve.files`.
"""
