"""Compute: Ray sessions, mapping over shards, training groups, job submission. *Cluster* always means machines."""
