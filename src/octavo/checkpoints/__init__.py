"""From a model's name to its tensors: the hub, folders, safetensors, torch's own files, GGUF, or made up."""
