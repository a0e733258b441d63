"""What the api knows without any I/O: requests, problems, filters, cursors, and how an execution is shown."""
