"""Features of pairs for training: which files, which pairs, which split, and the PCA of a split."""
