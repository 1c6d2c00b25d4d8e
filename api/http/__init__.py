"""The routes, and the one place where errors become HTTP."""
