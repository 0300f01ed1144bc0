"""The study of guidance: what it samples, on points with known scores and by a trained model."""
