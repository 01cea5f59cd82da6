"""The page and the element in a real Chromium."""
