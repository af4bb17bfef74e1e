"""Folders of images -> pairs of paths by name, and advice where no images or pairs are found."""
