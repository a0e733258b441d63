"""What the projection decides without any I/O: which rows a batch of messages writes."""
