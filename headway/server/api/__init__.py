"""HTTP endpoints: executions, listings, starting tasks, health, the OpenAPI description,
Tensorlake.
"""
