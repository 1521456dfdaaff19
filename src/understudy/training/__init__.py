"""The PyTorch model, its optimizer and the training loop."""
