"""How much each grant has allowed lately, counted once for all workers of a replica, or for all replicas."""
