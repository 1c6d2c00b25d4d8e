"""A base model's files: what of them is loaded, and digests of that.

files       the files of a folder or hub name
weights     which of them hold the weights, for transformers and vLLM alike
tokenizer   the tokenizer, loaded one way everywhere

Refuses to know what a task is.
"""
