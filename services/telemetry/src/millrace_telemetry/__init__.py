"""The telemetry service: projects the log into Postgres."""
