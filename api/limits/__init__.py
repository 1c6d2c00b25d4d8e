"""How much a request and a process may cost: texts in flight, bytes of a body, seconds."""
