"""`agent` steps: a model with instructions and tools, run until it answers.

pydantic-ai costs 0.9 s and 76 MB to import, so nothing here but `executor` may be imported before the first agent step.
"""
