"""Image files -> prepared pixels: find pairs by name, check and decode files, read images ahead with threads."""
