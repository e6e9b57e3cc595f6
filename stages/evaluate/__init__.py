"""From generated images to figures that say how well they show what was asked."""
