"""`crossrt serve`: an HTTP server that clients of TEI, Cohere, Jina, Voyage, vLLM and NIM can use unchanged.

Read `app.py` first. It follows a request from its bytes to its response. `dialects/` has the JSON of each kind of client.
"""
