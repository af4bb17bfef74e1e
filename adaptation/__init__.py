"""Features -> a similarity: a small head that learns from pairs what people see as alike.

`data` finds and lays out the features, `heads`, `losses` and `metrics` are what is learned and measured, `trainer` runs
the epochs, `memory` says how many runs go at once, `reporting` writes runs and comparisons, `experiment` is the whole.
"""
