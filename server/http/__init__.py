"""Connections, sockets, bodies, keys: HTTP without anything of ranking."""
