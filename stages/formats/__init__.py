"""One module per artifact: writer and reader side by side; no other file names a path inside an artifact."""
