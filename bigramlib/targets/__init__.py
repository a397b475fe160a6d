"""What a subnetwork should predict, and how far a model is from it."""
