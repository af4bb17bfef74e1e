"""Image files -> prepared pixels: pairs found by name, files checked and decoded, images read ahead by threads."""
