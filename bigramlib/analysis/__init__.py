"""What a subnetwork does: how it predicts, what removing it costs, what it shares with another, what each layer holds."""
