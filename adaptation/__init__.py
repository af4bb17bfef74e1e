"""Features -> a similarity: a small head that learns from pairs what people see as alike.

`pairs` lays the features out by view, `splits` draws test pairs, `heads`, `losses` and `metrics` are the paper's,
`trainer` runs the epochs, `statistics` sums up runs and `results` writes the run folder.
"""
