"""The api service: REST and WebSocket in front of the bus and the projection."""
