"""What a server or an `LLM` has done and is doing, as Prometheus' counters, gauges and histograms."""
