"""Features -> a similarity: a small head that learns from pairs what people see as alike.

`sources` finds the features files and names their models, `pairs` lays the features out by view, `splits` draws test
pairs, `reduction` fits a run's own PCA, `heads`, `losses` and `metrics` are the paper's, `trainer` runs the epochs,
`statistics` sums up runs, `results` writes the run folder, `stages` goes from model to model; `comparison` sets models
side by side, `tables` and `plots` show them, and `report` writes that down.
"""
