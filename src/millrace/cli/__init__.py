"""The command line. `main` registers the commands; each module holds the bodies of its own."""
