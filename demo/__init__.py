"""The sample pairs and the demonstration that `make demo` runs."""
