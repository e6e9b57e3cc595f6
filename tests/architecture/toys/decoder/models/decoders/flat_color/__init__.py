"""Images of one color: the toy of the recipe."""
