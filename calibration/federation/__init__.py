"""Calibration over Flower: clients on their own machines, one coordinator, the same two stages.

`wire` says what travels, `client` and `coordinator` what each side does with it; their `app` is
what Flower runs, from the submitted `app/`, which holds no Python. `simulate` runs both in one
process.
"""
