"""Draw the sample pairs, and run the demonstration of `make demo`."""
