"""What is made of recorded runs."""
