"""This project beside the plain way and beside the machine's limit, each measured in the same run.

`plain` is the way that the work is usually done, as a reference in its numbers too; `extraction`, `pca`, `training` and
`startup` measure a stage each, after a check that both ways give the same; `table` shows what they found.
"""
