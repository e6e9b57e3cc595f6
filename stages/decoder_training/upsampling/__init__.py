"""Train the super-resolution models of a cascade; each level is a stage of its own, so that all train side by side."""
