"""A small world of captioned images that are rendered on demand, and a checker of such images without learned parts."""
