"""What is written of runs: the run folder, events, statistics, tables and plots."""
