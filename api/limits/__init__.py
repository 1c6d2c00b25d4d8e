"""How much a request and a process may cost: engine requests at once, bytes of a body, seconds."""
