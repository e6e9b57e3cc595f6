"""From a list of addresses to webdataset shards."""
