"""What tests and benchmarks of several packages share. Nothing of the product imports it."""
