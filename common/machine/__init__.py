"""The machine: its operating system, memory, disk and devices."""
