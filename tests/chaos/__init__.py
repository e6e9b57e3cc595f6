"""Break runs at random moments, and see that they end with the same data: ``python -m tests.chaos --seconds 150``.

A tiny experiment is run once undisturbed. Then it is run again and again, each time with one sort of fault, several
times over, at moments that depend on the seed: processes are killed or stopped, servers go away, bytes rot, disks
fill, networks are cut, two drivers share a store. A run that ends early is started again, as a user would. In the end
the data must be the same to the bit, training must have seen the same samples, no finished unit may have been made
twice beyond what the fault itself destroyed, and nothing may be left behind. Only processes that were started here are
harmed.
"""
