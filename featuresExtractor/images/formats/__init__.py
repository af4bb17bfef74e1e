"""File formats: check that files are whole, and read their size and orientation before they are decoded."""
