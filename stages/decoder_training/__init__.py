"""What the stages that train on pictures and their embeddings share: settings, data and the training task."""
