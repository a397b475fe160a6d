"""What a subnetwork is asked to predict, and the loss of each."""
