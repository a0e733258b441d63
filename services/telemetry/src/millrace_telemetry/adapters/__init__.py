"""Where the projection meets the outside: the stream it follows, the tables it writes."""
