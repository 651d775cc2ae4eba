"""The chaos suite: faults on real servers, and one checker that says what they did."""
