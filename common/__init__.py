"""What both halves stand on: errors a user can act on, the console, devices, files written whole, lists of names."""
