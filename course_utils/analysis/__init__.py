"""What a network is made of: receptive fields, and the rules of an assignment."""
