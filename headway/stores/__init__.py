"""What is known of executions: one port (``base.Store``) and its implementations."""
