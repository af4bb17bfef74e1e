"""Decoded numbers -> 8-bit RGB, whatever they mean: ranges, colours, opacity."""
