"""What a run records with MLflow, on its way there: beside the work, and through the store where no server is."""
