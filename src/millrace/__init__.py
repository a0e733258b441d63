"""The Millrace command line and the embedded stack."""
