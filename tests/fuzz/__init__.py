"""Feed the parsers of outside data with damaged and hostile input: ``python -m tests.fuzz --seconds 60``.

Each input is a valid one that was mutated, and depends on the seed, the target and its number alone. A parser returns a
value or raises one of the project's own errors, in a sentence; anything else is a finding: another exception, more than
5 s of a processor, more than 1 GB of memory, the death of the process. Findings are kept as files that repeat them.
"""
