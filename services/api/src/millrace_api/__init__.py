"""The api service: REST and WebSockets. It accepts executions, keeps definitions, and shows what happened."""
