"""What only the reproduction needs: a trial says all of one run, the store keeps its scores."""
