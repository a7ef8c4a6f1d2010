"""HTTP code that knows nothing of ranking: connections, sockets, bodies and keys."""
