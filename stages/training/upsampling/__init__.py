"""Super-resolution models of a cascade: what both upsampler stages share."""
