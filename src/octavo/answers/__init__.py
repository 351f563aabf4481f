"""What a model's answer holds, read from its text as it comes: reasoning, text for the user, and calls of tools."""
