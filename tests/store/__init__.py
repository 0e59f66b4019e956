"""What is particular to the stores."""
