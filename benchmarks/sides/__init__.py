"""Two sides of a comparison, each a process of its own, which work in turn: names of works in, JSON lines out."""
