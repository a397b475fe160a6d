"""From documents to token ids: what texts come from, how their files are read, how they are tokenised, split and kept."""
