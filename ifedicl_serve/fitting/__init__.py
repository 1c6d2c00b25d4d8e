"""Fitting a readout to what a model says of labelled rows: sharpness, bias and label rows, without
a gradient through the model. Knows no model and no text, so whoever has the features may call it.

rungs        how much of a task is fitted
features     what the model says of a row
statistics   what is told of rows once: sums, the same for every partition of them
directions   label rows from those sums, in closed form
stack        how much of what: K + 3 numbers, by Newton's method on sums over rows
folds        which rows a number may be judged on
reader       rows in one place, and what is told of them
fit          readouts from what is told
judge        the rungs by rows that they were not fitted to, and the choice
signs        that a fit is of no use
record       what of it goes into the artifact
task         all of it together, for rows that lie in one place
"""
