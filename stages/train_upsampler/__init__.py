"""Train the first super-resolution model of a cascade: the decoder's images, enlarged."""
