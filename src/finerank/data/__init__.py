"""From logs and tables to the prepared data set, and from there to batches."""
