"""The HTTP edge: paths, parameters, status codes. Each route reads its request, calls one adapter, and renders."""
