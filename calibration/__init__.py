"""Offline calibration on Hugging Face models: extract, aggregate, fit. Never imports vllm."""
