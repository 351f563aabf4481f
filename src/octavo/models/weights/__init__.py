"""Where weights come from: safetensors, GGUF or made up; and the loader that streams them into a model."""
