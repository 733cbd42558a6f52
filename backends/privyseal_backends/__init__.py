"""What touches keys: the interface that key stores share, and one module or package for each store."""
