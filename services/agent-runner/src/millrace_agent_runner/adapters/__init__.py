"""The bus side of the runner: pulling work, keeping it alive, and handing results over."""
