"""The endpoints of OpenAI's API, one module each, and what they share."""
