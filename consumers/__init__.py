"""What runs the core beside Kafka and Redis."""
