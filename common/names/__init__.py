"""Names of images: which two make a pair, which ones a list means, and why a name is not there."""
