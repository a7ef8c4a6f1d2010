"""Child processes, forks, and the telemetry of imported libraries."""
