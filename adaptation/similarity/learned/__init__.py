"""What is learned, as a file: its format, where its numbers come from, and the networks that it names."""
