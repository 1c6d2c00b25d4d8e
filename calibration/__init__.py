"""Offline calibration on Hugging Face models: labelled examples in, an artifact out. No vllm.

`calibrate.calibrate` is the path; `command` is what people type.
"""
