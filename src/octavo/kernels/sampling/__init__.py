"""From logits to tokens, a batch at a time: `Kernels.sample` in torch, for any device; a module for each step."""
