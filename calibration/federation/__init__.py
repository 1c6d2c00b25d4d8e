"""Calibration over Flower: clients on their own machines, one coordinator, the same two stages.

`messages` says what travels, `client` and `server` what each side does with it, `client_app` and
`server_app` are what Flower runs, `simulate` runs both in one process.
"""
