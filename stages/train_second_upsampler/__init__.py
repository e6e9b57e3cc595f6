"""Train the second super-resolution model of a cascade: the first one's images, enlarged."""
