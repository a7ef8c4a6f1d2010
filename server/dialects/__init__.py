"""The JSON that clients of other servers send and read. Each dialect has a module."""
