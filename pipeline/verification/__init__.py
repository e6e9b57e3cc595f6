"""``corgi verify``: compare all that a run or a store holds with what was written."""
