"""One YAML file is one experiment: its schema, how it is read, and how its errors are reported."""
