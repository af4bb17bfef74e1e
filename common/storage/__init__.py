"""Files that are whole or missing, folders that one process writes to, archives of arrays."""
