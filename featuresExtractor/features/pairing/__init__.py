"""Rows of any features file -> pairs: views are separated, partners paired by name."""
