"""Sweeps: one experiment run in many variants, and one table and a few plots of what came out."""
