"""File formats: whole or truncated, how large, and which way up, without decoding."""
