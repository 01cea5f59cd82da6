"""HTTP endpoints: executions, listing, start, health, the OpenAPI description, Tensorlake."""
