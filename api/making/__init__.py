"""A task made from labelled examples by the engine that serves: no HTTP, and no vLLM.

draft      what is asked for, checked, and what the engine is to read
features   what the model says of the examples, read beside classifications
report     what a person needs to decide whether to use the task
jobs       one at a time: read, fit, write
store      jobs as files, which all API processes see
"""
