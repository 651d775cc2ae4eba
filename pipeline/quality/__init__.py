"""How good a run's scores were: what people look at, how sure the numbers are, where they fail."""
