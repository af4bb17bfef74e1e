"""Pretrained networks: built by their libraries, filled with weights, read at their layers, run on a device."""
