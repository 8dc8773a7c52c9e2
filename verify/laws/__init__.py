"""What a right backward pass obeys, each law beside the wrong ones that it has to reject."""
