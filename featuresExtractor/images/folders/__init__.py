"""Folders of images -> pairs of paths, found by name, and advice where nothing is found."""
