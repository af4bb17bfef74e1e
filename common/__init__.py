"""What both halves stand on: errors a user can act on, the console, records, vectors, storage, names, the machine."""

import os

# the hub's client reads it when it is imported: nothing is to tell anyone what is computed here
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
