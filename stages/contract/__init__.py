"""What a stage is: its configuration, context, events, errors, digests, and how one is run."""
