"""Fitting a readout: sharpness, bias and label rows, without a gradient through the model.

statistics   what a client tells of its rows once: sums, the same for every partition of them
directions   label rows from those sums, in closed form
stack        how much of what: K + 3 numbers, by Newton's method on sums over clients
folds        which rows a number may be judged on
fit          all of it together
noisy        the same from what private clients tell
"""
