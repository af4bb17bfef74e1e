"""A learned similarity in use: one file that holds all of it, embeddings of images, exact search, scores."""
