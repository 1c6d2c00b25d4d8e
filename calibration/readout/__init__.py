"""What of fitting a readout (`ifedicl_serve.fitting`) only calibration has.

noisy     from what private clients tell
metered   what it costs a client on a wire
"""
