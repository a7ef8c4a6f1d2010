"""The served models: their queues, their health, and the scoring of jobs."""
