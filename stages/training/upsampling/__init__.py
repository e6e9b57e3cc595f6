"""Super-resolution models of a cascade: the common part of both upsampler stages."""
