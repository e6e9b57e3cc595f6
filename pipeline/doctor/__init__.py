"""What is wrong with a machine, before a run finds out: one module per kind of check, run by command.py."""
