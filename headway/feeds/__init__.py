"""Where changes come from: one port (``base.Feed``) and its implementations."""
