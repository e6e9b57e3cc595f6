"""Distances between sets of images by their features, nearness of their manifolds, and intervals of all figures.

Everything is computed in float64 from features [rows, embed] or from what is summed of them; a figure does not depend
on the order of the rows, nor on the parts that they were summed in.
"""
