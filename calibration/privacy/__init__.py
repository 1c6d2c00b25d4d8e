"""Differential privacy for what leaves a client: how it works then, and what that costs.

`manner` is what a private client draws, averages and tells; `reference` the point it measures
from; `readout` what it tells of its rows for a readout; `mechanism` clips and adds noise, and knows
tensors alone; `accountant` counts the budget.

The guarantee is local: a client adds its own noise before anything leaves it, so it holds against
the coordinator, the other clients and everybody who gets the artifact. One labelled example of
one client is protected: all that a client ever sends is (epsilon, delta)-indistinguishable from
what it would send if that example contributed nothing (the "zero-out" neighbour, Ponomareva et
al., arXiv 2303.00654, section 2.1.1). How many examples a client has is treated as public. An
example that stands in the data several times, or with several clients, is protected less.

What is released: of a fit at the sites the mean activation once (Gaussian mechanism), and in every
local step the sum of clipped gradients (DP-SGD, Abadi et al., arXiv 1607.00133); of a readout sums
of clipped rows by label once, and in every step of its fit the sum of clipped gradients. All else
that depends on examples, exact label counts and losses, stays on the client. Not protected: the set
of labels, rows held out to measure on, and a text that is too long for the model, which ends a
client's part with an error. Noise is computed in floating point; the attacks on its last bits
(Mironov, CCS 2012) are not defended against.

A client spends its budget by answering: asked twice for the same, it must send the same answer
again, not compute another.
"""
