"""The JSON that clients of other servers send and read, one module for each dialect."""
