"""Compare names of images: which two make a pair, which ones a list chooses, and why a name has no match."""
