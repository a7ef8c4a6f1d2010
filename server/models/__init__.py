"""The served models: their queues, their health, and how jobs are scored with them."""
