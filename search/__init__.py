"""The study, the samplers, finalists, MLflow and the commands."""
