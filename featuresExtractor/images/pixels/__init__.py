"""Decoded samples -> 8-bit RGB: ranges, colours and opacity as each file means them."""
