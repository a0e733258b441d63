"""One module for each kind of work: each turns a resolved input into an output, or raises a `StepFailure`."""
