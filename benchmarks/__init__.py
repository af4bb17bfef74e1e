"""Measure this project beside the plain way and beside the machine's limit, in the same run.

`plain` is the usual way to do the work, and the reference for results; `extraction`, `pca`, `training` and `startup`
measure a stage each, after a check that both ways give the same results; `table` shows the measurements.
"""
