"""A learned similarity at work on folders of images: embed, search and score them into files."""
