"""What both halves stand on: errors a user can act on, the console, devices, files written whole, lists of names."""

import os

# the hub's client reads it when it is imported: nothing is to tell anyone what is computed here
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
