"""Rows of any features file -> pairs: views told apart, partners found by name."""
