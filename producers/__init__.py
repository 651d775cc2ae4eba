"""What feeds the stream: a simulator, files, a publisher."""
