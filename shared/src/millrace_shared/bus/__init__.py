"""The bus client: a NATS connection, a pipelined publisher, a pull loop, the stream table and the log reader."""
