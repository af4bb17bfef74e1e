"""The libraries that build backbones: a class each, and the table of all."""
