"""Expressions: plain paths, CEL behind our own interface, and templates that hold them. No one else imports CEL."""
