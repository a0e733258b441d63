"""The api's ways to the outside: the bus, Postgres, and what joins the two."""
