"""Expressions: plain paths, CEL behind our own interface, and templates. No one else imports CEL."""
