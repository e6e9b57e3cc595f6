"""Drawings of the same concepts by several artists: packages of a registry, their icons, and rendering."""
